-- Give the holder of a `retry` duty the next members to send again, no more than the stage's limit leaves room for. The
-- holder gets the same members again until it has said that they are sent.
-- USES outbox, limit, waiting, expiry
-- ARGV id, done number
-- `done` is how many times the holder has sent the members that it got.
-- returns {'some', epoch, member...}; {'done'}: there are none, or there is no room, and the duty is confirmed;
--         {'lost'}; or {'moved'} if `stage` isn't the present stage
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
