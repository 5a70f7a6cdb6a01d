-- Do what follows from how the members stand: complete the stage, let the run fail, or send more members.
-- USES completion, deadline, limit, parent, terms, turn
-- KEYS here.members, here.standing, here.dead

local function judge()
  local total, there = total_of(run.line), call('HLEN', here.members)
  if not total or there == 0 then return end -- the stage isn't opened yet; or it has expired, and so releases nothing
  local recorded, standing, ever_dead = there - 1, call('ZCARD', here.standing), call('ZCARD', here.dead)
  local working, failing, dead = 0, 0, 0
  if standing + ever_dead > 0 then
    working, failing, dead = count(WORKING) + count_waiting(), count(FAILING), count_dead()
  end
  local succeeded = recorded - standing - ever_dead
  local goal, allowed = terms(total)
  local settled, lost = succeeded + dead == total, dead > allowed
  local breaks = lost and has_flag('f')
  if run.state == 'failed' and not (settled or run.broken) then heal(dead, succeeded) end
  local alarms = failing + dead > 0 and (breaks or recorded - working >= total) and ring('alarmed', 'on_failure')
  if dead > 0 then ring('mourned', 'on_death') end
  if succeeded >= goal or (settled and not lost) then
    complete(succeeded, dead, total - succeeded - dead)
  elseif run.state ~= 'running' then
    return -- it has failed already
  elseif breaks then
    break_off(succeeded, dead)
  elseif settled then
    rest('failed', succeeded, dead)
  else
    if alarms then report('failing', succeeded, dead) end
    fill(total, recorded)
  end
  if run.state == 'running' then turn(run.stage == stage and failing + dead > 0 and 'failing' or 'running') end
end

-- Owe whatever follows from the state. That depends on the state alone, so this may be called at any time, by anybody,
-- and any number of times.
local function look(unheard)
  if run.stage ~= stage then return end -- the keys are of another stage
  local works = run.state == 'running' or run.state == 'failed'
  if works and run.error == '' then
    if is_overdue() then exceed() else judge() end
  end
  tell(unheard)
end
