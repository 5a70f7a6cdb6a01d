-- Make a script's reply: a word, a note, the duties that are given to the caller, and what else there is to tell.
-- USES outbox, timing, line, carry, news, turn
-- The note is '', 'ends' (the run has succeeded and owes nothing, and no other run will have its id), 'rests' (it is at
-- rest otherwise, and owes nothing), 'wakes' (it was at rest, and works or owes something again) or 'more' (there are
-- shares for anybody that the caller wasn't given). A time may follow it, after a space: by when somebody has to look.
-- A duty is {id, lease, cursor, repeated, line, snapshot}. A `start` duty also has the epoch, and a `send` duty (see
-- `carry`) spec, {row...}, {line of the stage before, field of its only member} or {}, {line, row} of the next or {}.
-- Behind the duties come {'turn', ...} for the register (see `lib/turn`), and {'news', JSON} (see `lib/news`).

-- Give a duty to the caller, under the caller's lease.
local function hand(id, duty)
  local repeated = not own[id] and duty.lease ~= '' and '1' or '0'
  if not own[id] then
    duty.due, duty.lease = now + lease_ms, lease
    call('HSET', outbox, id, cjson.encode(duty))
  end
  local line = line_of(tonumber(string.match(id, '^%a[%a_]*:(%d+)')))
  local handed = {id, lease, duty.cursor, repeated, line, duty.snapshot or ''}
  for _, part in ipairs(needs(id, line)) do handed[#handed + 1] = part end
  return handed
end

-- Returns the duties that the caller is given, in the order in which they came up; whether anything is owed, by
-- whomever; whether there are more shares for anybody; and whether a duty is parked. A caller gets one share at a time,
-- so that others can take the next ones.
local function take()
  local all, found, owing, more, parked = call('HGETALL', outbox), {}, false, false, false
  for index = 1, #all, 2 do
    local id, duty = all[index], cjson.decode(all[index + 1])
    local moot = is_moot(id)
    owing, parked = owing or not (moot or duty.parked), parked or duty.parked and not moot
    if moot then
      call('HDEL', outbox, id)
    elseif for_anybody[id] then
      more = true
    elseif own[id] or not duty.parked and may_have(duty) then
      found[#found + 1] = {id = id, duty = duty}
    end
  end
  table.sort(found, function(one, other) return one.duty.seq < other.duty.seq end)
  local duties, has_share = {}, false
  for _, one in ipairs(found) do
    local is_share = one.duty.owner == ''
    if is_share and has_share then more = true else duties[#duties + 1] = hand(one.id, one.duty) end
    has_share = has_share or is_share
  end
  return duties, owing, more, parked
end

-- The script's reply. If anything is owed, `owing_word`, if given, takes the place of `word`.
local function answer(word, owing_word)
  local reply, owing, more, parked = take()
  local note = more and 'more' or woken and 'wakes' or ''
  if run.state ~= 'running' and not owing then note = not parked and how_it_ends() or 'rests' end
  table.insert(reply, 1, owing and owing_word or word)
  table.insert(reply, 2, noted(timed(note)))
  if turned then reply[#reply + 1] = told_turn() end
  if #news > 0 then reply[#reply + 1] = {'news', cjson.encode(news)} end
  return reply
end
