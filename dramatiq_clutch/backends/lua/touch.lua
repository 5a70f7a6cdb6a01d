-- Put the expiry of the run's keys off.
-- returns {'touched' | 'unknown'}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown'} end
if run.stage ~= stage then return {'moved'} end
if run.state == 'succeeded' then return {'touched'} end -- it lives for its result_ttl
touch()
return {'touched'}
