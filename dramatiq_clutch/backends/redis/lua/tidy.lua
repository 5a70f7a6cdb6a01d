-- The last duty of a run that has succeeded is done: only its status and result stay.
-- USES expiry
-- ARGV id
-- returns {'ends' | 'confirmed' | 'lost', note}, or {'moved'}: it is at another stage now
if not run.state or not held(id) then return {'lost', ''} end
if run.stage ~= stage then return {'moved'} end
call('HDEL', outbox, id)
clean_up()
return {call('EXISTS', outbox) == 0 and 'ends' or 'confirmed', ''}
