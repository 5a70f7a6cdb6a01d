-- The run comes to rest, or back to work.
-- USES callbacks
-- KEYS bell
local function rest(state)
  run.state = state
  if state == 'succeeded' then
    owe_callback('completion')
    owe_callback('on_success')
  end
  owe_callback('on_finish')
  set('state', state)
  redis.pcall('PUBLISH', bell, state) -- a hint; without the right to give it the run comes to rest all the same
end

-- A run that has failed, or was cancelled, works again. What is dead already has been mourned.
local function heal(dead)
  if run.state ~= 'running' then woken = true end
  set('state', 'running')
  set('alarmed', false)
  set('mourned', dead > 0)
end
