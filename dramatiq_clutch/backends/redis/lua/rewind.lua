-- Put a run at rest that keeps its results back to work at `stage`, which has begun before. That and all stages after
-- it are done again, under a new generation, so that nothing of the earlier pass counts any more.
-- USES take, release, deadline, awaited, tombstone, expiry
-- KEYS old.plan, old.outbox, old.failures, old.tally, old.members, old.standing, old.dead, old.attempts, old.times
-- ARGV earlier, spec, kept
-- `generation` is the new one, and `earlier` the one that the run has until now: `old` are keys of that. Those of a
-- stage are of the stage before `stage`, in whichever generation has them. `spec` and `kept` are fields of the head.
-- returns {'rewound' | 'works' | 'owing' | 'refused' | 'expired' | 'unknown', note, duty...}
if run.state then return answer('rewound') end -- by an earlier call of the same
if not stranger or run.generation ~= earlier then return {'unknown', ''} end
if not run.keeps or stage > run.stage or stage >= run.stages then return {'refused', ''} end
if stranger == 'running' then return {'works', ''} end
if is_awaited(old.outbox) then return {'owing', ''} end
local has_rows = string.find(line_of(run.stages - 1), '^0 0 ') == nil
if stage > 0 and call('EXISTS', old.members) == 0 or has_rows and call('EXISTS', old.plan) == 0 then
  return {'expired', ''}
end

remember_past(earlier, A_DAY + math.max(run.due - now, 0))
clear_tombstone()
for _, keys in ipairs({
  {old.plan, plan}, {old.failures, failures}, {old.tally, tally}, {old.members, before.members},
  {old.standing, before.standing}, {old.dead, before.dead}, {old.attempts, before.attempts},
  run.timed and {old.times, before.times} or nil,
}) do
  if call('EXISTS', keys[1]) == 1 then call('RENAME', keys[1], keys[2]) end
end
for _, key in ipairs(run.tallied and {failures, tally} or {}) do
  for _, field in ipairs(call('HKEYS', key)) do
    if tonumber(string.match(field, '^%d+')) >= stage then call('HDEL', key, field) end
  end
end
for index = stage, run.stage do
  local line = line_of(index)
  if has_flag('m', line) then line = string.gsub(line, '^(%d+) %S+', '%1 ?') end
  local from = index == stage and ' from=' .. math.min(number_in(line, 'from'), now) or ''
  line = string.gsub(line, ' from=%d+', from) -- `stage` itself has waited already, or is to wait no longer
  call('HSET', head, 's' .. index, line)
  call('HDEL', head, 'd' .. index)
  call('HDEL', head, 'k' .. index)
  call('HDEL', head, 't' .. index)
end
call('HSET', head, 'gen', generation, 'spec', spec, 'kept', kept, 'state', 'running', 'stage', stage, 'era', 0,
  'revival', 0, 'retrying', '', 'error', '', 'alarmed', '0', 'mourned', '0', 'broken', '0', 'taken_up', 0,
  't' .. stage, now)
read_run()
turn('running')
woken = true
report('rewound', 0, 0)
call('HSET', here.members, '', '')
owe_stage(stage, begin_deadlines(run.line, true))
touch()
return answer('rewound')
