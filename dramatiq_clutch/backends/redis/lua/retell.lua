-- Have a nested run tell its parent once more how it stands, unless it has nothing to tell: the parent hasn't heard it.
-- USES take, life, expiry
-- returns {'told' | 'unknown', note, duty...}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
look(run.told ~= '' and run.told ~= 'working')
clean_up()
return answer('told')
