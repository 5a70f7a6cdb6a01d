-- Write down whatever follows from how the members stand, and give the caller the duties that it owns and those whose
-- lease has lapsed.
-- USES take, life, expiry
-- returns {'owing' | 'clear' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
look()
clean_up()
return answer('clear', 'owing')
