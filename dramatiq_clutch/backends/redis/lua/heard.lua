-- Note that a callback's message has ended: no other attempt of it will come.
-- USES expiry, firings
-- ARGV duty, index number, ending
-- `duty` is the id of the duty that sent the message, and `index` the message's position among those of the duty.
-- `ending` is the letter that stands for how it has ended: `stored/firings.py` has them.
-- returns {'heard' | 'unknown', note}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
if index == 0 then call('SREM', callbacks, duty) end -- it may have been the only one
call('SREM', callbacks, duty .. '.' .. index)
note_ended(duty, index, ending, now)
clean_up()
return {'heard', noted('')}
