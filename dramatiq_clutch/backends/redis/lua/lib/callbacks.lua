-- Owe the callbacks for an event of the run. It is one duty, which sends all of them; but each ends by itself, so that
-- of several each is noted with its index.
-- USES outbox, snapshot, firings
-- KEYS callbacks
local function owe_callback(event)
  local several = string.match(' ' .. run.events .. ' ', ' ' .. event .. '=?(%d*) ')
  if not several then return end
  local id = event .. ':' .. stage .. ':' .. call('HINCRBY', head, 'fired', 1)
  if event ~= 'completion' then -- a group's completion callbacks read nothing of the run, so it needn't stay for them
    if several == '' then call('SADD', callbacks, id) end
    for index = 0, (tonumber(several) or 0) - 1 do call('SADD', callbacks, id .. '.' .. index) end
    call('PEXPIRE', callbacks, lifetime())
  end
  owe(id, moment())
  note_fired(event, id, generation, now)
end

-- Fire a callback that fires once for each stage. The duty is written before the flag: if this script breaks off
-- between them (say, because another program has written to one of the keys), the next one fires the callback again.
-- Returns whether it has fired.
local function ring(flag, event)
  if run[flag] then return end
  run[flag] = true
  owe_callback(event)
  set(flag, true)
  return true
end
