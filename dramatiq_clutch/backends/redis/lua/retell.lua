-- Have a nested run tell its parent once more how it stands, because the parent hasn't heard it. A run that last told
-- `working` has nothing to tell.
-- USES take, life, expiry
-- returns {'told' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
look(run.told ~= '' and run.told ~= 'working')
clean_up()
return answer('told')
