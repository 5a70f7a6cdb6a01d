-- Bring the run to rest: from here on nothing is sent or started, and no record of a job counts.
-- USES take, life, tombstone, expiry
-- KEYS here.halted
-- ARGV bury
-- `bury` is '', or, if the run is cancelled because its parent is, the epoch that the parent was in. Then a run that
-- the parent has revived in a later epoch is left alone; and if the run isn't there, a tombstone is left, so that the
-- parent can't start it in this epoch or an earlier one.
-- returns {'cancelled' | 'over' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't the present stage
if not run.state then
  local what, whose, epoch = read_tombstone()
  local known = what and whose == generation
  if bury ~= '' and not (known and (what == 'done' or tonumber(epoch) >= tonumber(bury))) then
    clear_tombstone()
    call('SET', tombstone, 'buried ' .. generation .. ' ' .. bury, 'PX', A_DAY)
  end
  return {'unknown', ''}
end
if run.stage ~= stage then return {'moved'} end
if bury ~= '' and tonumber(call('HGET', head, 'since')) > tonumber(bury) then return answer('over') end
if run.state ~= 'running' then
  return answer(run.state == 'cancelled' and call('HGET', head, 'cancelled_by') == owner and 'cancelled' or 'over')
end
drop_moves()
if call('EXISTS', here.members) == 1 then call('RENAME', here.members, here.halted) end
call('HSET', head, 'cancelled_by', owner)
rest('cancelled')
owe_shares('halt', haltable())
if bury ~= '' then set('told', 'dead') else tell() end -- a parent that has cancelled it needn't be told so
touch()
return answer('cancelled')
