-- Begin a new epoch in which all unsettled members are sent again, because their messages were lost.
-- USES take, report, expiry
-- returns {'resent' | 'nothing' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
local total = total_of(run.line)
if run.state ~= 'running' or not total or total == 0 then return answer('nothing') end
tells_by = true
set('epoch', run.epoch + 1)
owe('resend:' .. stage .. ':0:' .. sent_so_far() .. ':' .. run.epoch)
report('resent')
touch()
return answer('resent')
