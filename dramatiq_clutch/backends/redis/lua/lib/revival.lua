-- The steps of a retry.
-- USES release, members
-- KEYS here.halted, here.members

-- The duties that are parked because they couldn't be done, by their ids.
local function parked_duties()
  local parked, all = {}, call('HGETALL', outbox)
  for index = 1, #all, 2 do
    local duty = cjson.decode(all[index + 1])
    if duty.parked then parked[all[index]] = duty end
  end
  return parked
end

-- Owe parked duties again, by the caller.
local function owe_parked(parked)
  for id, duty in pairs(parked) do
    duty.parked, duty.owner, duty.due = nil, owner, 0
    woken = true
    call('HSET', outbox, id, cjson.encode(duty))
  end
end

-- Begin a new epoch. If the revival ends with the old one, all members that are dead wait to be sent again from here
-- on; if the era does, all unsettled members that have had an attempt do, too.
local function begin_epoch(ends_era, ends_revival)
  set('epoch', run.epoch + 1)
  if ends_revival then
    clear_tally()
    set('revival', run.revival + 1)
  end
  if ends_era then call('UNLINK', here.due) end
  if ends_era then set('era', run.era + 1) end
end

-- Make records count again, by renaming `halted` back to `members`; and drop the duties that would cancel nested runs
-- of this stage.
local function undo_halt()
  for _, id in ipairs(call('HKEYS', outbox)) do
    if string.find(id, '^halt:' .. stage .. ':') then call('HDEL', outbox, id) end
  end
  if call('EXISTS', here.halted) == 1 then call('RENAME', here.halted, here.members) end
  call('HSETNX', here.members, '', '')
end

-- Owe that those members of a halted stage are sent that have had no attempt. They were owed before, so in a stage with
-- a limit they count against it already.
local function owe_unattempted(total, to, nested)
  if not total or total == 0 then
    owe_stage(stage, run.line)
  elseif nested then
    owe_shares('resume', to)
  else
    owe('resume:' .. stage .. ':0:' .. to .. ':' .. run.epoch)
  end
end
