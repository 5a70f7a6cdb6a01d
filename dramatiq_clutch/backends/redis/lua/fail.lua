-- Let the run fail, because a duty can't be done and waiting doesn't cure that. `retry` owes the duty again, unless it
-- is a callback.
-- USES take, life, expiry, firings
-- ARGV id, details
-- returns {'failed' | 'lost', note, duty...}; or {'moved'} if `stage` isn't the present stage
local duty = run.state and held(id)
if not duty then return {'lost', ''} end
if run.stage ~= stage then return {'moved'} end
if is_moot(id) then
  call('HDEL', outbox, id)
  clean_up()
  return {'lost', ''}
end
local callback = is_callback(id)
local tells = string.sub(id, 1, 4) == 'tell'
if callback then
  call('SREM', callbacks, id)
  note_sent(id, '!' .. now)
end
if callback or (run.state == 'succeeded' and not tells) then
  call('HDEL', outbox, id)
else
  duty.parked = true
  call('HSET', outbox, id, cjson.encode(duty))
end
set('error', details)
if run.state == 'running' then
  stop('failed') -- before the snapshot of the alarm
  if not callback then ring('alarmed', 'on_failure') end -- a callback that can't be sent rings no alarm
  rest('failed')
end
tell()
touch()
clean_up()
return answer('failed')
