-- Put off the expiry of the run's keys.
-- USES expiry
-- ARGV due number
-- `due` is until when something of the run is delayed (UNIX ms), or 0.
-- returns {'touched' | 'unknown'}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
wait_until(due)
if run.state == 'succeeded' then
  clean_up() -- a succeeded run lives for its result_ttl, or until its callbacks have ended
else
  touch()
end
return {'touched', noted('')}
