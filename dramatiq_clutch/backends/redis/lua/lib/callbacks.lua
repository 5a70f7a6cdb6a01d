-- What tells somebody of an event of the run.
-- USES outbox, snapshot
-- KEYS callbacks
local function owe_callback(event)
  if not string.find(run.events, event, 1, true) then return end
  local id = event .. ':' .. stage .. ':' .. call('HINCRBY', head, 'fired', 1)
  if event ~= 'completion' then -- a group's completion callbacks ask for nothing of the run
    call('SADD', callbacks, id)
    call('PEXPIRE', callbacks, lifetime())
  end
  owe(id, moment())
end

-- Fire a callback that a stage has once. What is owed is always written first: should a step break off there, for a key
-- of somebody else's is in the way, it is met again.
local function ring(flag, event)
  if run[flag] then return end
  run[flag] = true
  owe_callback(event)
  set(flag, true)
end
