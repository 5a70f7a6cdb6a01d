-- Confirm that a duty is done, or that it is done up to a cursor: then its lease begins anew.
-- USES firings
-- KEYS head, outbox, queue?
-- ARGV duty, cursor, now, lease, lease_ms, sent...
-- `cursor` is '' when the duty is done. `queue` and `sent` are given when this call travels in one pipeline behind the
-- duty's messages: the duty is confirmed only if the ids in `sent` are the last ones in the broker's queue, because the
-- server carries on with a pipeline after an error.
-- returns 'confirmed'; 'rests': confirmed, and the run is at rest and owes nothing more; 'lost': the caller doesn't
--         hold the duty. Two answers mean that nothing was changed: 'unseen': the messages aren't in the queue; 'tidy':
--         this is the last duty of a run that has succeeded, so call the script of that name instead
local stored = redis.call('HGET', outbox, duty)
local owed = stored and cjson.decode(stored)
if not owed or owed.parked or owed.lease ~= lease then return 'lost' end
if cursor ~= '' then
  owed.cursor, owed.due = math.max(owed.cursor, tonumber(cursor)), now + lease_ms
  redis.call('HSET', outbox, duty, cjson.encode(owed))
  return 'confirmed'
end
if #sent > 0 then
  local last = redis.call('LRANGE', queue, -#sent, -1)
  for index = 1, #sent do
    if last[index] ~= sent[index] then return 'unseen' end
  end
end
local is_last, state = redis.call('HLEN', outbox) == 1, redis.call('HGET', head, 'state')
if is_last and state == 'succeeded' then return 'tidy' end
redis.call('HDEL', outbox, duty)
note_sent(duty, now)
return is_last and state ~= 'running' and 'rests' or 'confirmed'
