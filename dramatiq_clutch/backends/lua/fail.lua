-- A duty can't be done, and waiting doesn't cure it: the run fails.
-- ARGV  6 duty, 7 details
-- returns {'failed' | 'lost', duty...}
local id, details = ARGV[6], ARGV[7]
if not run.state or not held(id) then return {'lost'} end
call('HDEL', outbox, id)
set('error', details)
if run.state ~= 'succeeded' then
  rest('failed')
  -- A callback that can't be sent isn't reported through itself.
  if string.sub(id, 1, 3) ~= 'on_' and not run.alarmed then
    alarm(true)
    owe_callback('on_failure')
  end
end
touch()
clean_up()
return answer('failed')
