-- A duty is done, or done up to a cursor: then its lease begins anew.
-- KEYS  1 head, 2 outbox; and, when it goes with what has been sent for the duty, 3 the broker's queue
-- ARGV  1 duty, 2 cursor ('' when it is done), 3 now (ms), 4 lease, 5 lease_ms; the ids that must be the last in that queue
-- returns 'confirmed'; 'rests': so it is, and the run is at rest and owes nothing more; 'lost'; and having changed
--         nothing, 'unseen', or 'tidy': it is the last one of a run that has succeeded
local head, outbox, id, cursor = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local stored = redis.call('HGET', outbox, id)
local duty = stored and cjson.decode(stored)
if not duty or duty.parked or duty.lease ~= ARGV[4] then return 'lost' end
if cursor ~= '' then
  duty.cursor, duty.due = math.max(duty.cursor, tonumber(cursor)), ARGV[3] + ARGV[5]
  redis.call('HSET', outbox, id, cjson.encode(duty))
  return 'confirmed'
end
if KEYS[3] then
  local sent = #ARGV - 5
  local last = redis.call('LRANGE', KEYS[3], -sent, -1)
  for index = 1, sent do
    if last[index] ~= ARGV[5 + index] then return 'unseen' end
  end
end
local is_last, state = redis.call('HLEN', outbox) == 1, redis.call('HGET', head, 'state')
if is_last and state == 'succeeded' then return 'tidy' end
redis.call('HDEL', outbox, id)
return is_last and state ~= 'running' and 'rests' or 'confirmed'
