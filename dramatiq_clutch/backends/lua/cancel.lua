-- Bring the run to rest: nothing is sent or started any more, nothing counts.
-- ARGV  6 epoch of the parent that is cancelled, or '': it doesn't concern a run that it has revived since, and one
--         that isn't there is not to be started in it
-- returns {'cancelled' | 'over' | 'unknown', duty...}, or {'moved'}: it is at another stage now
local bury = ARGV[6]
if not run.state then
  local marked = call('GET', mark)
  local buried = marked and string.match(marked, '^buried (%d+)$')
  if bury ~= '' and (not marked or (buried and tonumber(buried) < tonumber(bury))) then
    call('SET', mark, 'buried ' .. bury, 'PX', A_DAY)
  end
  return {'unknown'}
end
if run.stage ~= stage then return {'moved'} end
if bury ~= '' and tonumber(call('HGET', head, 'since')) > tonumber(bury) then return answer('over') end
if run.state ~= 'running' then
  return answer(run.state == 'cancelled' and call('HGET', head, 'cancelled_by') == owner and 'cancelled' or 'over')
end
for _, id in ipairs(call('HKEYS', outbox)) do
  if MOVES[string.match(id, '^%a+')] then call('HDEL', outbox, id) end
end
if call('EXISTS', here.marks) == 1 then call('RENAME', here.marks, here.halted) end
set('cancelled_by', owner)
rest('cancelled')
if has_nested() then owe('halt:' .. stage .. ':' .. run.epoch) end
tell()
touch()
return answer('cancelled')
