-- Tell under which state a member of a stage is shown.
-- USES unsent, atwork, nested, called
-- KEYS here.members, here.halted, here.standing, here.dead, failures
local recorded = halts and run.state == 'cancelled' and here.halted or here.members
local has_records = call('EXISTS', recorded) == 1

-- The least score in `dead` of a member that is dead. In a stage that is over, those below it waited to be sent again
-- when it was complete without them; the head tells how many were dead, and these have the highest scores.
local function least_dead()
  if not over then return run.revival * SPAN end
  local lost = tonumber(call('HGET', head, 'd' .. stage) or 0)
  local last = lost > 0 and call('ZRANGE', here.dead, -lost, -lost)[1]
  return last and math.floor(tonumber(call('ZSCORE', here.dead, last)) / SPAN) * SPAN or math.huge
end
local dead_from = least_dead()

-- How a member of a stage that is over is shown. If its results are gone, only some failures are known.
local function shown_of_past(member, stands)
  if call('HEXISTS', failures, stage .. '.' .. member) == 1 then return 'dead' end
  return (has_records or stands) and 'skipped' or 'succeeded'
end

-- `ranges` are those of the members that were never sent. A long field is a result, and isn't read.
local function state_of(member, ranges)
  local size = call('HSTRLEN', recorded, member)
  local field = size < 2 and call('HGET', recorded, member)
  if size > 1 or field == 'S' then return 'succeeded' end
  local grave, score = call('ZSCORE', here.dead, member), call('ZSCORE', here.standing, member)
  if grave and tonumber(grave) >= dead_from then return 'dead' end
  if over then return shown_of_past(member, grave or score) end
  if score then
    local era = math.floor(tonumber(score) / ERA)
    local works, fails = is_at_work(member), math.floor(tonumber(score) / SPAN) % 4 == FAILING
    if era == run.era and fails and not works then return 'failing' end
    if era ~= run.era or halts then return 'unsent' end
    return (works or field ~= '') and 'working' or 'sent'
  end
  if grave or next_in(ranges, member) == member then return 'unsent' end
  return (is_at_work(member) or has_flag('r') and row_of(member) == 'r') and 'working' or 'sent'
end

-- Whether any member of the stage can be shown under this state. That spares looking at all of them in vain.
local function may_be(state)
  if state == '' then return true end
  if state == 'skipped' then return over and call('HEXISTS', head, 'k' .. stage) == 1 end
  if over then return state == 'succeeded' end
  local idle = state == 'working' and not (run.timed or has_nested()) and count(WORKING, ATTEMPTED) == 0
  return stage == run.stage and not idle or state == 'unsent'
end

-- The dead members, from `start` on, of a stage that is longer over: those whose failures are kept.
local function kept_dead(start)
  local found = {}
  for _, field in ipairs(call('HKEYS', failures)) do
    local index, member = string.match(field, '^(%d+)%.(%d+)$')
    if tonumber(index) == stage and tonumber(member) >= start then found[#found + 1] = tonumber(member) end
  end
  table.sort(found)
  return found
end
