-- Show how the run stands at one moment.
-- USES listed, times
-- KEYS here.members, here.halted, here.due, tally

-- A text that changes whenever anything happens to the run.
local function present(updated)
  return stage .. ' ' .. call('HLEN', here.members) .. ' ' .. updated
end

local function counts()
  local recorded = math.max(call('HLEN', run.state == 'cancelled' and here.halted or here.members) - 1, 0)
  return {
    recorded = recorded, working = count(WORKING) + count_waiting(), attempted = count(ATTEMPTED),
    failing = count(FAILING), dead = count_dead(), began = began_at(),
  }
end

-- When the first of the failing members is attempted again (UNIX ms), of those whose next attempt hasn't come yet.
local function next_attempt()
  local first = run.state == 'running' and call('ZRANGEBYSCORE', here.due, now, '+inf', 'LIMIT', 0, 1)[1]
  return first and tonumber(call('ZSCORE', here.due, first)) or nil
end

local UNSHOWN = {spec = true, context = true, calls = true} -- Python reads these by themselves
local NOTHING = {recorded = 0, working = 0, attempted = 0, failing = 0, dead = 0}

-- The snapshot as JSON: the run's fields, but for those that may be large and are seldom asked for; the counts of its
-- present stage, its first failures, and how many members are dead, by `tally`. If it goes with a duty, it is `brief`:
-- then it has few tracebacks, because it stays in the outbox until the duty is done.
local function snapshot(brief)
  local all, shown = call('HGETALL', head), {}
  for index = 1, #all, 2 do
    if not UNSHOWN[all[index]] then shown[all[index]] = all[index + 1] end
  end
  shown.state, shown.stage = run.state, tostring(run.stage) -- the script may not have written them yet
  if shown.stalled and shown.seen ~= present(shown.updated) then shown.stalled = nil end
  local is_new = run.stage ~= stage -- this script has just released the next stage, in which nothing has happened
  local listed, kept = is_new and {} or present_failures(), kept_failures()
  if brief then
    without_tracebacks(listed, MOST_TRACEBACKS)
    without_tracebacks(kept, 0)
  end
  local numbers = is_new and NOTHING or counts()
  if numbers.failing > 0 then numbers.next = next_attempt() end
  return cjson.encode({
    head = shown, counts = numbers, failures = listed, kept = kept,
    tally = run.tallied and call('HGETALL', tally) or nil,
  })
end

-- The snapshot that goes with a duty that this script causes.
local function moment()
  update()
  return snapshot(true)
end
