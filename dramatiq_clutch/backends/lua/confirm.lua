-- A duty is done, or done up to a cursor: then its lease begins anew.
-- ARGV  6 duty, 7 cursor ('' when it is done)
-- returns {'confirmed' | 'lost'}
local id, cursor = ARGV[6], ARGV[7]
local duty = held(id)
if not duty then return {'lost'} end
if cursor == '' then
  call('HDEL', outbox, id)
else
  duty.cursor, duty.due = tonumber(cursor), now + lease_ms
  call('HSET', outbox, id, cjson.encode(duty))
end
clean_up()
return {'confirmed'}
