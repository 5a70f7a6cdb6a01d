-- Return how the run stands at one moment.
-- USES snapshot
-- returns {'there', snapshot as JSON}, {'unknown'}, or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown'} end
if run.stage ~= stage then return {'moved'} end
return {'there', snapshot()}
