-- Begin a new epoch in which the dead members work again; in a run that was cancelled, or has failed while members were
-- unsettled, all members that haven't succeeded do.
-- USES take, life, revival, expiry
-- ARGV revived_in
-- `revived_in` is '', or, if the run's parent revives it, the epoch that the parent is in.
-- returns {'retried' | 'nothing' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't the present stage
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
if revived_in ~= '' then
  -- The parent's `retry` and `revive` duties may both reach this run: it is revived once for each epoch of the parent.
  if tonumber(call('HGET', head, 'since')) >= tonumber(revived_in) then return answer('nothing') end
  call('HSET', head, 'since', revived_in)
end

tells_by = true
local succeeded, total = run.state == 'succeeded', total_of(run.line)
-- A run that had failed before its deadline isn't taken up by late records, so the retry sends those members, too.
local broken = run.state == 'failed' and (run.broken or (run.error == '' and is_overdue()))
local halted = broken or run.state == 'cancelled'
local dead, parked = succeeded and 0 or count_dead(), parked_duties()
local nested = not succeeded and total and has_nested()
local revived = halted or dead > 0 or next(parked) ~= nil or (run.error ~= '' and not succeeded)
-- A parent that was cancelled hasn't heard that this run is or was failing, and counts it as working.
local unheard = revived_in ~= '' and (run.told == 'failing' or run.told == 'attempted')
if not (revived or nested) then
  tell(unheard)
  return answer('nothing')
end

report('retried')
begin_epoch(halted, halted or dead > 0)
owe_parked(parked)
if halted then undo_halt() end
if revived then
  set('error', '')
  if not succeeded then
    heal(0)
    begin_deadlines(run.line, true)
  end
end
local limit, to = limit_of(run.line), sent_so_far()
if halted then -- these are sent again, so what else they come to in an earlier epoch doesn't count any more
  set('taken_up', run.epoch)
  set('taken_to', to or 0)
end
if halted then owe_unattempted(total, to, nested) end
if total and not succeeded then -- members that have had an attempt; in a stage with a limit, `fill` sends them
  if nested and not halted then owe_shares('revive', to) end
  -- Where shares revive many nested runs, the duty to send the other members again is for anybody.
  if not limit and run.retrying == '' and count_waiting() > 0 then
    owe_retry(nested and to > few_runs() and '' or nil)
  end
end
look(unheard)
touch()
clean_up()
return answer('retried')
