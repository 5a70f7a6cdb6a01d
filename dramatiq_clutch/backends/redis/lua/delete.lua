-- Delete what is kept of a run at rest, and free its id. Late messages of it are known by its generation.
-- USES take, awaited, tombstone
-- KEYS plan, callbacks, failures, tally
-- KEYS before.members, before.standing, before.dead, before.attempts, before.nests, before.times
-- KEYS here.members, here.standing, here.dead, here.attempts, here.nests, here.halted, here.items, here.due, here.times
-- KEYS after.members
-- ARGV bury, asks flag
-- `bury` is '', or, for a run that is deleted with its parent, the epoch that the parent is in: then a tombstone keeps
-- the parent from starting it in that epoch. `asks`: nothing is deleted, and the answer says whether it could be. If
-- the run owes something that others wait for (a callback, a word to its parent, the cancel of nested runs), it can't.
-- returns {'deleted' | 'freed' | 'rests' | 'works' | 'owing' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't
--         the present stage. 'freed': the run had expired, and only its tombstone was there. 'rests': it could be
--         deleted
if not run.state then
  local what, whose = read_tombstone()
  if not (what == 'done' or what == 'free') or whose ~= generation then return {'unknown', ''} end
  if asks then return {'rests', ''} end
  remember_past(generation, call('PTTL', tombstone))
  call('DEL', tombstone)
  return {'freed', ''}
end
if run.stage ~= stage then return {'moved'} end
if run.state == 'running' then return {'works', ''} end
if is_awaited(outbox) then return answer('owing') end
if asks then return {'rests', ''} end

call('UNLINK', head, plan, outbox, callbacks, failures, tally)
for _, keys in ipairs({before, here, after}) do
  for name, key in pairs(keys) do
    if name ~= 'times' or run.timed then call('UNLINK', key) end
  end
end
local late = A_DAY + math.max(run.due - now, 0) -- how long messages of it may still come, such as delayed attempts
if bury ~= '' then
  call('SET', tombstone, 'buried ' .. generation .. ' ' .. bury, 'PX', late)
else
  call('DEL', tombstone)
  remember_past(generation, late)
end
return {'deleted', ''}
