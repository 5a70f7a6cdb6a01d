-- The last duty of a run that has succeeded is done: only its status and result stay.
-- ARGV  6 duty
-- returns {'confirmed' | 'lost'}, or {'moved'}: it is at another stage now
local id = ARGV[6]
if not run.state or not held(id) then return {'lost'} end
if run.stage ~= stage then return {'moved'} end
call('HDEL', outbox, id)
clean_up()
return {'confirmed'}
