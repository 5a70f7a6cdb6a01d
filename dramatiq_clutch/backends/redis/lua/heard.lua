-- Note that a callback's message has ended: no other attempt of it will come.
-- USES expiry
-- ARGV duty
-- `duty` is the id of the duty that sent the message.
-- returns {'heard' | 'unknown', note}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
call('SREM', callbacks, duty)
clean_up()
return {'heard', ''}
