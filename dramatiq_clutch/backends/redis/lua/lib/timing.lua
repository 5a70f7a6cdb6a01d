-- Tell by when somebody has to look at the run, because a deadline may be over then.
-- USES outbox
-- That is the run's deadline, that of its present stage, or that of a stage that is released at once and has the
-- shortest one. So nobody has to be told when a stage is released.
local function timed(note)
  if not run.soonest or run.state ~= 'running' or not (tells_by or woken) then return note end
  local by = math.min(run.run_by or math.huge, run.stage_by or math.huge, now + run.soonest)
  return note .. string.format(' %.0f', by)
end
