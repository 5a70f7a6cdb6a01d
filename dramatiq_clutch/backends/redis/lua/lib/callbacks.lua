-- Owe the callbacks for an event of the run.
-- USES outbox, snapshot
-- KEYS callbacks
local function owe_callback(event)
  if not string.find(run.events, event, 1, true) then return end
  local id = event .. ':' .. stage .. ':' .. call('HINCRBY', head, 'fired', 1)
  if event ~= 'completion' then -- a group's completion callbacks read nothing of the run, so it needn't stay for them
    call('SADD', callbacks, id)
    call('PEXPIRE', callbacks, lifetime())
  end
  owe(id, moment())
end

-- Fire a callback that fires once for each stage. The duty is written before the flag: if this script breaks off
-- between them (say, because another program has written to one of the keys), the next one fires the callback again.
local function ring(flag, event)
  if run[flag] then return end
  run[flag] = true
  owe_callback(event)
  set(flag, true)
end
