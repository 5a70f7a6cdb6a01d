-- A new epoch, in which the dead members work again; of a cancelled run, all that have not succeeded.
-- ARGV  7 epoch of the parent that revives it, or ''
-- returns {'retried' | 'nothing' | 'unknown', note, duty...}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end

if ARGV[7] ~= '' then
  -- Its parent's `retry` and `revive` duties may both come to it. Once for each of the parent's epochs is enough.
  if tonumber(call('HGET', head, 'since')) >= tonumber(ARGV[7]) then return answer('nothing') end
  call('HSET', head, 'since', ARGV[7])
end
local cancelled, succeeded = run.state == 'cancelled', run.state == 'succeeded'
local dead = succeeded and 0 or count_dead()
local parked = {}
local all = call('HGETALL', outbox)
for index = 1, #all, 2 do
  local duty = cjson.decode(all[index + 1])
  if duty.parked then parked[all[index]] = duty end
end
local total = total_of(run.line)
local nested = not succeeded and total and has_nested()
local revived = cancelled or dead > 0 or next(parked) ~= nil or (run.error ~= '' and not succeeded)
-- A parent that was cancelled hasn't heard that this run is failing, or was, and takes it for open.
local unheard = ARGV[7] ~= '' and (run.told == 'failing' or run.told == 'attempted')
if not (revived or nested) then
  tell(unheard)
  return answer('nothing')
end

set('epoch', run.epoch + 1)
if dead > 0 or cancelled then set('revival', run.revival + 1) end
if cancelled then set('era', run.era + 1) end
for id, duty in pairs(parked) do
  duty.parked, duty.owner, duty.due = nil, owner, 0
  call('HSET', outbox, id, cjson.encode(duty))
end
if cancelled then
  for _, id in ipairs(call('HKEYS', outbox)) do
    if string.sub(id, 1, 4) == 'halt' then call('HDEL', outbox, id) end
  end
  if call('EXISTS', here.halted) == 1 then call('RENAME', here.halted, here.marks) end
  call('HSET', here.marks, '', '')
end
if revived then
  call('HSET', head, 'error', '')
  run.error = ''
  if not succeeded then heal(0) end
end
local limit = limit_of(run.line)
local to = limit and run.sent or total
if cancelled and (not total or total == 0) then
  owe_stage(stage, run.line)
elseif cancelled and nested then -- those that have had no attempt; they have their places
  owe_shares('resume', to)
elseif cancelled then
  owe('resume:' .. stage .. ':0:' .. to .. ':' .. run.epoch)
end
if total and not succeeded then -- and those that have had one; with a limit, `fill` sends them
  if nested and not cancelled then owe_shares('revive', to) end
  -- Of many nested runs those with shares have most retry; what is left then is whoever's that comes.
  if not limit and run.retrying == '' and count_waiting() > 0 then owe_retry(nested and to > few_runs() and '' or nil) end
end
look(unheard)
touch()
clean_up()
return answer('retried')
