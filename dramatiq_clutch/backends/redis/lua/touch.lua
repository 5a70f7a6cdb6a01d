-- Put the expiry of the run's keys off.
-- USES expiry
-- ARGV due number
-- Something of it is delayed until `due` (ms), or 0.
-- returns {'touched' | 'unknown'}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
wait_until(due)
if run.state == 'succeeded' then
  clean_up() -- it lives for its result_ttl, or as long as its callbacks
else
  touch()
end
return {'touched', ''}
