-- Complete a stage, and release the next one.
-- USES rest, failures, deadline, ahead
-- KEYS before.members, before.standing, before.dead, before.attempts, before.nests, before.times
-- KEYS here.nests, here.items, here.due

-- Skip the members of a stage that is complete without them, of which some may be nested runs. What jobs have nested
-- stays until these are cancelled, because the duties to do that read it.
local function skip(skipped)
  call('HSET', head, 'k' .. stage, skipped)
  owe_shares('halt', haltable())
end

local function forget_nests_before()
  for _, id in ipairs(call('HKEYS', outbox)) do
    if string.find(id, '^halt:' .. (stage - 1) .. ':') then return end
  end
  call('UNLINK', before.nests)
end

-- Complete the stage. Its results stay, because the next stage reads them; the results of the stage before it go,
-- unless the run keeps them.
local function complete(succeeded, dead, skipped)
  local nests = skipped == 0 and here.nests or here.items
  call('UNLINK', here.items, here.due, nests)
  if not run.keeps then
    call('UNLINK', before.members, before.standing, before.dead, before.attempts, before.times)
  end
  if word_of('enough', run.lines[stage - 1] or '') then forget_nests_before() end
  if skipped > 0 then skip(skipped) end
  if dead > 0 then call('HSET', head, 'd' .. stage, dead) end
  if stage + 1 == run.stages then return rest('succeeded', succeeded, dead) end
  if dead > 0 then keep_failures() end
  if run.state == 'failed' then heal(0, succeeded) end
  run.stage, run.alarmed, run.mourned, run.retrying = stage + 1, false, false, ''
  run.era, run.revival = 0, 0
  if run.taken_up > 0 then set('taken_up', 0) end
  -- A stage without members is complete at once, so the wait before it comes before the next one.
  local since = total_of(run.line) == 0 and number_in(run.line, 'from') or 0
  local line = begin_stage(stage + 1, math.max(now, since))
  begin_deadlines(line)
  owe_stage(stage + 1, line)
  go_to_next()
  report('released', succeeded, dead)
end
