-- Tell how the members of the stage stand. `standing` holds the unsettled members that have had an attempt, and `dead`
-- the dead ones. A member that waits to be sent again stays where it was.
-- USES failures
-- KEYS here.standing, here.dead, here.attempts, here.due
-- A retry begins a new revival, and a new era if the run was cancelled. Every member whose score has an earlier revival
-- or era waits to be sent again. So a retry of 100,000 members changes two numbers, and no script visits them all.

-- An upper bound that is itself excluded. It is formatted, because Lua by itself writes fewer digits than a score has.
local function below(score)
  return string.format('(%.0f', score)
end

-- How many members are of the kinds from `kind` to `last` (by default of `kind` only), in the present era.
local function count(kind, last)
  local from = run.era * ERA
  return call('ZCOUNT', here.standing, from + kind * SPAN, below(from + ((last or kind) + 1) * SPAN))
end

local function count_dead()
  return call('ZCOUNT', here.dead, run.revival * SPAN, '+inf')
end

-- How many members wait to be sent again: the dead of earlier revivals, and the unsettled of earlier eras.
local function count_waiting()
  local dead = run.revival > 0 and call('ZCOUNT', here.dead, '-inf', below(run.revival * SPAN)) or 0
  return dead + (run.era > 0 and call('ZCOUNT', here.standing, '-inf', below(run.era * ERA)) or 0)
end

-- How a member stands from here on, of which `failure` says why if it is dead, and `due` when it is attempted again if
-- it is failing (UNIX ms; 0 if that isn't known). This comes before its entry of `attempts` changes.
local function stand(member, kind, failure, due)
  local was_dead = tally_off(member)
  if kind == FAILING and due > 0 then call('ZADD', here.due, due, member) else call('ZREM', here.due, member) end
  if kind == DEAD then
    call('ZREM', here.standing, member)
    call('ZADD', here.dead, run.revival * SPAN + tonumber(member), member)
    tally_up(failure)
  else
    if was_dead then call('ZREM', here.dead, member) end
    call('ZADD', here.standing, run.era * ERA + kind * SPAN + tonumber(member), member)
  end
end

-- Take a member that has succeeded out of `standing`, `due`, `dead` and `attempts`.
local function unstand(member)
  call('ZREM', here.standing, member)
  call('ZREM', here.due, member)
  if tally_off(member) then call('ZREM', here.dead, member) end
  call('HDEL', here.attempts, member)
end

-- Whether this attempt is later than the last recorded one: it is of a later epoch, or a later attempt of the same one.
local function is_newer(member, epoch, attempt)
  local last_epoch, last_attempt = string.match(call('HGET', here.attempts, member) or '-1 -1 ', '^(%-?%d+) (%-?%d+) ')
  last_epoch, last_attempt = tonumber(last_epoch), tonumber(last_attempt)
  return epoch > last_epoch or (epoch == last_epoch and attempt > last_attempt)
end
