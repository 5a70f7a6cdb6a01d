-- A callback has ended: it won't be attempted any more.
-- ARGV  7 the duty that sent it
-- returns {'heard' | 'unknown', note}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
call('SREM', callbacks, ARGV[7])
clean_up()
return {'heard', ''}
