-- What the broker does in the very step that records how a job ended: it sends the message of the duty that this
-- causes, fetches it for the sender's own worker, and acks the message of the job that has ended.
-- USES outbox
-- KEYS broker?
-- ARGV onward_duty, onward_queue, onward_id, enqueues number, fetches number, along...
-- `dispatch` is the broker's own script as a function, or nil if the broker is on another server. `along` is what it
-- takes: first to enqueue the message (`enqueues` arguments), then to fetch it (`fetches`), then to ack (the rest).
-- Where there are no arguments, it doesn't. `onward_queue` is the key of the queue's list, and `onward_id` stands in it
-- for the message, which is fetched only if it is the first in the queue: then nothing else waits for longer.
local has_kept, has_acked = false, false

local function dispatch_with(from, to)
  local arguments = {}
  for index = from, to do arguments[#arguments + 1] = along[index] end
  return #arguments > 0 and pcall(dispatch, {broker}, arguments)
end

-- Send the message of a duty. If that fails, the duty is owed as ever.
go_onward = function(id)
  if id ~= onward_duty then return false end
  has_gone = dispatch_with(1, enqueues)
  if has_gone and fetches > 0 and call('LRANGE', onward_queue, 0, 0)[1] == onward_id then
    has_kept = dispatch_with(enqueues + 1, enqueues + fetches)
  end
  return has_gone
end

-- The reply, with what the broker has done as its third part: {words, {line, row} of the stage after the next}. The
-- words are of 'sent', 'kept' and 'acked'. The message is acked if its worker has nothing left to do for it.
local function along_with(reply)
  if not dispatch then return reply end
  local gives_duties = reply[3] and reply[3][1] ~= 'news'
  if not gives_duties and reply[2] == '' then has_acked = dispatch_with(enqueues + fetches + 1, #along) end
  local did = (has_gone and 'sent ' or '') .. (has_kept and 'kept ' or '') .. (has_acked and 'acked' or '')
  table.insert(reply, 3, {did, has_gone and next_of(run.stage) or {}})
  return reply
end
