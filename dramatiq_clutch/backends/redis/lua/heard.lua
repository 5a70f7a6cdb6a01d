-- A callback has ended: it won't be attempted any more.
-- USES expiry
-- ARGV duty
-- `duty` is the id of the one that sent it.
-- returns {'heard' | 'unknown', note}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
call('SREM', callbacks, duty)
clean_up()
return {'heard', ''}
