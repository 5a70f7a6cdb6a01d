-- A new epoch, in which the dead members work again; of a cancelled run, all that have not succeeded.
-- ARGV  6 epoch of the parent that revives it, or ''
-- returns {'retried' | 'nothing' | 'unknown', duty...}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown'} end
if run.stage ~= stage then return {'moved'} end

if ARGV[6] ~= '' then call('HSET', head, 'since', ARGV[6]) end
local cancelled = run.state == 'cancelled'
local from = cancelled and OPEN or DEAD
local again = run.state == 'succeeded' and {} or call('ZRANGEBYSCORE', here.standing, from * SPAN, '+inf')
local unsent = tonumber(run.again) -- an earlier retry isn't through: those are of this one
if unsent and not cancelled then
  local waiting = call('ZRANGEBYSCORE', here.standing, OPEN * SPAN + unsent, OPEN * SPAN + HALF - 1)
  for _, member in ipairs(waiting) do again[#again + 1] = member end
end
local parked = {}
local all = call('HGETALL', outbox)
for index = 1, #all, 2 do
  local duty = cjson.decode(all[index + 1])
  if duty.parked then parked[all[index]] = duty end
end
local total = total_of(run.line)
local nested = run.state ~= 'succeeded' and total and has_nested()
local revived = cancelled or #again > 0 or next(parked) ~= nil or run.error ~= ''
if run.state == 'succeeded' then revived = next(parked) ~= nil end
-- A parent that was cancelled hasn't heard that this run is failing, or was, and takes it for open.
local unheard = ARGV[6] ~= '' and (run.told == 'failing' or run.told == 'attempted')
if not (revived or nested) then
  tell(unheard)
  return answer('nothing')
end

set('epoch', run.epoch + 1)
if limit_of(run.line) and not cancelled then -- those on their way are not of this retry, and count
  local sent = call('ZRANGEBYSCORE', here.standing, OPEN * SPAN, OPEN * SPAN + (unsent or HALF) - 1)
  for _, member in ipairs(sent) do call('ZADD', here.standing, OPEN * SPAN + HALF + tonumber(member), member) end
end
for _, member in ipairs(again) do
  local order = string.match(call('HGET', here.details, member) or '', '^%-?%d+ %-?%d+ ') or '-1 -1 '
  call('HSET', here.details, member, order .. run.epoch)
  stand(member, OPEN)
end
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
  if run.state ~= 'succeeded' then heal(0) end
end
if cancelled and (not total or total == 0) then
  owe_stage(stage, run.line)
elseif cancelled then
  owe_again('resume')
elseif #again > 0 or nested then
  owe_again('retry')
end
look(unheard)
touch()
clean_up()
return answer('retried')
