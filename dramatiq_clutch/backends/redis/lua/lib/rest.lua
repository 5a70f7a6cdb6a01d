-- Bring the run to rest, or back to work.
-- USES callbacks, halt, report, turn, times
-- KEYS bell
local function stop(state)
  set('state', state)
  call('HSET', head, 'ended', now, 't' .. stage, times())
end

-- How many members of the stage have succeeded and are dead is for the log: see `report`.
local function rest(state, succeeded, dead)
  stop(state)
  if state == 'succeeded' then
    owe_callback('completion')
    owe_callback('on_success')
  elseif state == 'failed' then
    owe_callback('on_failed')
  end
  owe_callback('on_finish')
  turn(state)
  redis.pcall('PUBLISH', bell, state) -- only a hint, so a user without permission to publish gets no error
  report(state, succeeded, dead)
end

-- Let the run fail while members are unsettled: nothing of its stage is sent or started any more, and its nested runs
-- are cancelled. Only a retry, or late successes that complete the stage, take it up again.
local function break_off(succeeded, dead)
  drop_moves()
  owe_shares('halt', haltable())
  set('broken', true)
  rest('failed', succeeded, dead)
end

-- Put a run that has failed or was cancelled back to work. `on_failure` may fire again; `on_death` may do so only if no
-- member is still dead, because it has fired for a dead one. Without `succeeded` nothing is reported here, because a
-- retry is reported as such.
local function heal(dead, succeeded)
  if run.state ~= 'running' then woken = true end
  set('state', 'running')
  turn('running')
  set('alarmed', false)
  set('mourned', dead > 0)
  if run.broken then set('broken', false) end
  if succeeded then report('healed', succeeded, dead) end
end
