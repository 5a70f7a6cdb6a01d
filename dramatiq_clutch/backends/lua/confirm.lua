-- A duty is done, or done up to a cursor: then its lease begins anew.
-- KEYS  head, outbox
-- ARGV  duty, cursor ('' when it is done), now (ms), lease, lease_ms
-- returns 'confirmed'; 'tidy': that was the last one of a run that has succeeded; 'lost'
local head, outbox, id, cursor = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local stored = redis.call('HGET', outbox, id)
local duty = stored and cjson.decode(stored)
if not duty or duty.parked or duty.lease ~= ARGV[4] then return 'lost' end
if cursor ~= '' then
  duty.cursor, duty.due = tonumber(cursor), ARGV[3] + ARGV[5]
  redis.call('HSET', outbox, id, cjson.encode(duty))
  return 'confirmed'
end
redis.call('HDEL', outbox, id)
if redis.call('HGET', head, 'state') ~= 'succeeded' or redis.call('EXISTS', outbox) == 1 then return 'confirmed' end
return 'tidy'
