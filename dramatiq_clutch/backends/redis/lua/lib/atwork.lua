-- Tell which members have begun and not ended, in a run with timings.
-- USES unsent, timings
-- KEYS here.times
-- What is kept of when a member was at work, or ''.
local function times_of(member)
  return run.timed and call('HGET', here.times, member) or ''
end

-- Whether an attempt of a job is at work, in a run with timings; those of before a cancel don't count.
local function is_at_work(member)
  if not run.timed or halts then return false end
  local entry = read_entry(times_of(member))
  return entry.works and entry.era == run.era
end
