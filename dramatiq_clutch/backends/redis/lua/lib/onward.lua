-- Have the broker send the message of a duty in the step that causes it (see `lib/along`).
-- USES along, outbox, ahead
-- ARGV onward_duty
-- That is the id of the duty whose message is at hand, or ''.
local has_kept = false

-- Send the message of a duty. If that fails, the duty is owed as ever.
go_onward = function(id)
  if id ~= onward_duty then return false end
  has_gone, has_kept = send_onward()
  return has_gone
end

-- The reply, with what the broker has done as its third part: {words, {line, row} of the stage after the next}. The
-- message is acked if its worker has nothing left to do for it. If the next one was sent then, too, the reply is brief.
local function along_with(reply)
  if not dispatch then return reply end
  local told = reply[3] and reply[3][1] == 'news' and reply[3][2]
  local asks_for_nothing = reply[2] == '' and (told or not reply[3])
  local did = in_words(has_gone, has_kept, asks_for_nothing and ack())
  local ahead = has_gone and next_of(run.stage) or {}
  if has_gone and asks_for_nothing then return brief_reply(reply[1], did, ahead[1], told or '[]', ahead[2]) end
  table.insert(reply, 3, {did, ahead})
  return reply
end
