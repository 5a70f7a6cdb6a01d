-- A duty is done, or done up to a cursor: then its lease begins anew.
-- KEYS head, outbox, queue?
-- ARGV duty, cursor, now, lease, lease_ms, sent...
-- `cursor` is '' when the duty is done. `queue` is the broker's, where this goes with what has been sent for the duty,
-- and `sent` are the ids that must be the last in it then; otherwise there are none.
-- returns 'confirmed'; 'rests': so it is, and the run is at rest and owes nothing more; 'lost'; and having changed
--         nothing, 'unseen', or 'tidy': it is the last one of a run that has succeeded
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
return is_last and state ~= 'running' and 'rests' or 'confirmed'
