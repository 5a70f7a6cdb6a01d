-- A duty is done, or done up to a cursor: then its lease begins anew.
-- ARGV  6 duty, 7 cursor ('' when it is done)
-- returns {'confirmed' | 'lost'}, or {'moved'}: it is at another stage now, and has to be cleaned up there
local id, cursor = ARGV[6], ARGV[7]
local duty = held(id)
if not duty then return {'lost'} end
if run.state == 'succeeded' and run.stage ~= stage then return {'moved'} end
if cursor == '' then
  call('HDEL', outbox, id)
else
  duty.cursor, duty.due = tonumber(cursor), now + lease_ms
  call('HSET', outbox, id, cjson.encode(duty))
end
clean_up()
return {'confirmed'}
