-- Confirm the last duty of a run that has succeeded, and delete everything but the run's status and result.
-- USES expiry, firings
-- ARGV id
-- returns {'ends' | 'rests' | 'confirmed' | 'lost', note}; or {'moved'} if `stage` isn't the present stage
if not run.state or not held(id) then return {'lost', ''} end
if run.stage ~= stage then return {'moved'} end
call('HDEL', outbox, id)
note_sent(id, now)
clean_up()
return {call('EXISTS', outbox) == 0 and how_it_ends() or 'confirmed', noted('')}
