-- List failures for a snapshot.
-- USES members
-- KEYS here.standing, here.dead, here.attempts, failures

-- The first failures of the present stage, each as {member, failure}.
local function present_failures()
  local from = run.era * ERA + FAILING * SPAN
  local found = call('ZRANGEBYSCORE', here.standing, from, below(from + SPAN), 'LIMIT', 0, MOST_FAILURES)
  local dead = call('ZRANGEBYSCORE', here.dead, run.revival * SPAN, '+inf', 'LIMIT', 0, MOST_FAILURES)
  for _, member in ipairs(dead) do found[#found + 1] = member end
  local listed = {}
  for index = 1, math.min(#found, MOST_FAILURES) do
    listed[index] = {found[index], failure_in(call('HGET', here.attempts, found[index]))}
  end
  return listed
end

-- The failures that are kept of stages that are over, each as {'STAGE.MEMBER', failure}.
local function kept_failures()
  local listed, all = {}, run.tallied and call('HGETALL', failures) or {}
  for index = 1, #all, 2 do listed[#listed + 1] = {all[index], all[index + 1]} end
  return listed
end

-- Leave the tracebacks, with which their JSON ends, out of all but the first `most` of these failures.
local function without_tracebacks(listed, most)
  for index = most + 1, #listed do
    local failure = listed[index][2]
    local from = string.find(failure, ', "traceback": "', 1, true)
    if from then listed[index][2] = string.sub(failure, 1, from - 1) .. '}' end
  end
end
