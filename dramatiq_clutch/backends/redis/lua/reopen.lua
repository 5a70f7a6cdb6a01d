-- Give the holder of a `retry` the next members to send again, no more than there is room for. It gets the same ones
-- again until it has said that they are sent.
-- USES outbox, limit, waiting, expiry
-- ARGV id, done number
-- `done` is how many times it has sent what it got.
-- returns {'some', epoch, member...}; {'done'}: there are none, or there is no room, and the duty is confirmed;
--         {'lost'}; or {'moved'}: it is at another stage now
local duty = run.state and held(id)
if not duty then return {'lost'} end
if run.stage ~= stage then return {'moved'} end
if done > duty.cursor then duty.cursor, duty.members = done, nil end
if not duty.members then
  local limit = limit_of(run.line)
  local most = limit and math.min(room_in(limit, call('HLEN', here.members) - 1), MANY) or MANY
  local members = run.state == 'running' and most > 0 and next_waiting(most) or {}
  if #members == 0 then
    call('HDEL', outbox, id)
    set('retrying', '')
    update()
    clean_up()
    return {'done'}
  end
  work_again(members)
  duty.members, duty.epoch = members, run.epoch
end
duty.due = now + lease_ms
call('HSET', outbox, id, cjson.encode(duty))
touch()
return {'some', duty.epoch, unpack(duty.members)}
