-- Do what follows from how the members stand: complete the stage, let the run fail, or send more members.
-- USES rest, limit, parent
-- KEYS before.members, before.standing, before.dead, before.attempts
-- KEYS here.members, here.standing, here.dead, here.nests, here.items, after.members

-- Complete the stage. Its results stay, because the next stage reads them; the results of the stage before it go.
local function complete(dead)
  call('UNLINK', before.members, before.standing, before.dead, before.attempts, here.nests, here.items)
  if dead > 0 then call('HSET', head, 'd' .. stage, dead) end
  if stage + 1 == run.stages then return rest('succeeded') end
  if run.state == 'failed' then heal(0) end
  run.stage, run.alarmed, run.mourned, run.retrying = stage + 1, false, false, ''
  run.era, run.revival = 0, 0
  call('HSET', after.members, '', '')
  call('PEXPIRE', after.members, lifetime())
  owe_stage(stage + 1, line_of(stage + 1))
  call('HSET', head, 'stage', stage + 1, 'alarmed', '0', 'mourned', '0', 'retrying', '', 'era', 0, 'revival', 0)
end

local function judge()
  local total, there = total_of(run.line), call('HLEN', here.members)
  if not total or there == 0 then return end -- the stage isn't opened yet; or it has expired, and so releases nothing
  local recorded, standing, buried = there - 1, call('ZCARD', here.standing), call('ZCARD', here.dead)
  local working, failing, dead = 0, 0, 0
  if standing + buried > 0 then
    working, failing, dead = count(WORKING) + count_waiting(), count(FAILING), count_dead()
  end
  local succeeded = recorded - standing - buried
  local settled = succeeded + dead == total
  if run.state == 'failed' and not settled then heal(dead) end
  if failing + dead > 0 and recorded - working >= total then ring('alarmed', 'on_failure') end
  if dead > 0 then ring('mourned', 'on_death') end
  if succeeded == total or (settled and has_flag('t')) then
    complete(dead)
  elseif settled and run.state ~= 'failed' then
    rest('failed')
  else
    fill(total, recorded)
  end
end

-- Owe whatever follows from the state. That depends on the state alone, so this may be called at any time, by anybody,
-- and any number of times.
local function look(unheard)
  if run.stage ~= stage then return end -- the keys are of another stage
  local works = run.state == 'running' or run.state == 'failed'
  if works and run.error == '' then judge() end
  tell(unheard)
end
