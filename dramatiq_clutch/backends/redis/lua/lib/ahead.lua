-- The stage that follows: what is known of it, and how the run goes on to it.
-- USES line, times
-- KEYS plan, after.members

-- The line and the row of the stage after this one (`index`), if that is one job; {} otherwise. It is {} for the first
-- stage, too, because the process that sends that stage (the producer) seldom does its job; and where that stage waits
-- before it begins, because it is only known at its release until when.
local function next_of(index)
  local line = index > 0 and index + 1 < run.stages and line_of(index + 1) or ''
  local offset, total = string.match(line, '^(%d+) (%d+) ')
  if total ~= '1' or has_flag('m', line) or has_flag('r', line) or number_in(line, 'wait') > 0 then return {} end
  local row = call('LRANGE', plan, offset, offset)[1]
  return row and #row <= LITTLE and {line, row} or {}
end

-- Make the next stage the present one, whose keys live as long as the run's others. This comes last: what `run` says of
-- the present stage may be needed until then.
local function go_to_next()
  call('HSET', after.members, '', '')
  call('PEXPIRE', after.members, lifetime())
  call('HSET', head, 'stage', stage + 1, 'alarmed', '0', 'mourned', '0', 'retrying', '', 'era', 0, 'revival', 0,
    't' .. stage, times(), 't' .. (stage + 1), now, 'updated', now)
  run.stage, run.is_updated = stage + 1, true
end
