-- Show how the run stands at one moment.
-- USES members
-- KEYS here.members, here.halted

-- A text that changes whenever anything happens to the run.
local function present(updated)
  return stage .. ' ' .. call('HLEN', here.members) .. ' ' .. updated
end

-- The first failures of the present stage, each as {member, details}.
local function failures()
  local from = run.era * ERA + FAILING * SPAN
  local found = call('ZRANGEBYSCORE', here.standing, from, below(from + SPAN), 'LIMIT', 0, MOST_FAILURES)
  local dead = call('ZRANGEBYSCORE', here.dead, run.revival * SPAN, '+inf', 'LIMIT', 0, MOST_FAILURES)
  for _, member in ipairs(dead) do found[#found + 1] = member end
  local told = {}
  for index = 1, math.min(#found, MOST_FAILURES) do
    local details = call('HGET', here.attempts, found[index]) or '0 0 '
    told[index] = {found[index], string.match(details, '^%-?%d+ %-?%d+ (.*)$')}
  end
  return told
end

local function counts()
  local recorded = math.max(call('HLEN', run.state == 'cancelled' and here.halted or here.members) - 1, 0)
  return {
    recorded = recorded, working = count(WORKING) + count_waiting(), attempted = count(ATTEMPTED),
    failing = count(FAILING), dead = count_dead(),
  }
end

-- The snapshot as JSON: the run's fields (without the spec and the context, which Python reads by themselves), the
-- counts of its present stage, and its first failures.
local function snapshot()
  local all, shown = call('HGETALL', head), {}
  for index = 1, #all, 2 do
    if all[index] ~= 'spec' and all[index] ~= 'context' then shown[all[index]] = all[index + 1] end
  end
  shown.state, shown.stage = run.state, tostring(run.stage) -- the script may not have written them yet
  if shown.stalled and shown.seen ~= present(shown.updated) then shown.stalled = nil end
  if run.stage ~= stage then -- this script has just released the next stage, in which nothing has happened
    return cjson.encode({
      head = shown, counts = {recorded = 0, working = 0, attempted = 0, failing = 0, dead = 0}, failures = {},
    })
  end
  return cjson.encode({head = shown, counts = counts(), failures = failures()})
end

-- The snapshot that goes with a duty that this script causes.
local function moment()
  update()
  return snapshot()
end
