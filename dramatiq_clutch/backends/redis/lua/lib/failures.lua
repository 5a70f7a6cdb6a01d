-- Keep why members are dead: counts by the exception's type, and the first failures of stages that are over.
-- USES run
-- KEYS here.dead, here.attempts, failures, tally
-- A member is in the tally while it is dead in the present revival; `dead` says which are, `attempts` why.

-- The failure in an entry of `attempts`, as JSON.
local function failure_in(entry)
  return string.match(entry or '', '^%-?%d+ %-?%d+ (.*)$') or ''
end

-- The field of `tally` for a failure. If there are many types already, those that are new have one field together.
local function field_for(failure)
  local field = stage .. ' ' .. (string.match(failure, '"type": "(.-)"') or '')
  if call('HEXISTS', tally, field) == 1 or call('HLEN', tally) < MANY then return field end
  return stage .. ' '
end

-- Note why a member has died.
local function tally_up(failure)
  call('HINCRBY', tally, field_for(failure), 1)
  call('PEXPIRE', tally, lifetime())
  if not run.tallied then set('tallied', true) end
end

-- Take a member out of the tally if it is in there: it isn't dead any more, or dies again. This comes before its entry
-- of `attempts` changes. Returns whether the member is in `dead`.
local function tally_off(member)
  local score = call('ZSCORE', here.dead, member)
  if score and tonumber(score) >= run.revival * SPAN then
    local field = field_for(failure_in(call('HGET', here.attempts, member)))
    -- Of a member that died in an older release nothing is there to be taken out.
    if call('HINCRBY', tally, field, -1) <= 0 then call('HDEL', tally, field) end
  end
  return score and true
end

-- Empty the tally of the present stage: a retry takes all up that are dead.
local function clear_tally()
  for _, field in ipairs(run.tallied and call('HKEYS', tally) or {}) do
    if string.match(field, '^%d+') == tostring(stage) then call('HDEL', tally, field) end
  end
end

-- Keep the failures of a stage that is over, as long as there are few in all: what the stage itself has goes.
local function keep_failures()
  local room = MOST_FAILURES - call('HLEN', failures)
  if room <= 0 then return end
  for _, member in ipairs(call('ZRANGEBYSCORE', here.dead, run.revival * SPAN, '+inf', 'LIMIT', 0, room)) do
    call('HSET', failures, stage .. '.' .. member, failure_in(call('HGET', here.attempts, member)))
  end
  call('PEXPIRE', failures, lifetime())
end
