-- How the members of the stage stand. `standing` has those that have had an attempt and are unsettled, `dead` the dead
-- ones; each has those, too, that wait to be sent again.
-- USES run
-- KEYS here.standing, here.dead, here.attempts
-- A retry begins a new revival (of a cancelled run, a new era too): whatever has a lower one in its score waits to be
-- sent again. So a retry of 100,000 members is one number, and nobody has to visit them in one step.

-- A bound that isn't included. A score has more digits than Lua writes by itself.
local function below(score)
  return string.format('(%.0f', score)
end

-- How many members are of these kinds, in the present era.
local function count(kind, last)
  local from = run.era * ERA
  return call('ZCOUNT', here.standing, from + kind * SPAN, below(from + ((last or kind) + 1) * SPAN))
end

local function count_dead()
  return call('ZCOUNT', here.dead, run.revival * SPAN, '+inf')
end

-- How many wait to be sent again: those of an earlier revival, or era.
local function count_waiting()
  local dead = run.revival > 0 and call('ZCOUNT', here.dead, '-inf', below(run.revival * SPAN)) or 0
  return dead + (run.era > 0 and call('ZCOUNT', here.standing, '-inf', below(run.era * ERA)) or 0)
end

local function stand(member, kind)
  if kind == DEAD then
    call('ZREM', here.standing, member)
    call('ZADD', here.dead, run.revival * SPAN + tonumber(member), member)
  else
    call('ZREM', here.dead, member)
    call('ZADD', here.standing, run.era * ERA + kind * SPAN + tonumber(member), member)
  end
end

-- The member has succeeded, and doesn't stand anywhere any more.
local function unstand(member)
  call('ZREM', here.standing, member)
  call('ZREM', here.dead, member)
  call('HDEL', here.attempts, member)
end

-- Whether this attempt is later than the last one that was recorded: of a later epoch, or later in the same one.
local function is_newer(member, epoch, attempt)
  local last_epoch, last_attempt = string.match(call('HGET', here.attempts, member) or '-1 -1 ', '^(%-?%d+) (%-?%d+) ')
  last_epoch, last_attempt = tonumber(last_epoch), tonumber(last_attempt)
  return epoch > last_epoch or (epoch == last_epoch and attempt > last_attempt)
end
