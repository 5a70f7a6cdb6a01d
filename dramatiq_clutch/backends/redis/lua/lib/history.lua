-- Make what is kept of a run that has succeeded small, for it may be kept for long, only to be looked at.
-- USES run

-- Fields that only a run at work needs.
local SPARED = {
  'alarmed', 'mourned', 'seq', 'since', 'retrying', 'era', 'revival', 'share', 'events', 'sent', 'seen',
  'seen_at', 'until', 'taken_up', 'taken_to',
}

-- For how long the status is kept.
local function history()
  return tonumber(call('HGET', head, 'history') or 0)
end

-- Leave these out, and write the head anew: a hash that has once had a large value, as the spec is one, stays of the
-- kind that takes more than twice the room.
local function shrink()
  if history() == 0 or run.share == 0 then return end -- it is done already
  call('HDEL', head, unpack(SPARED))
  local names = call('HKEYS', head)
  if #names > FIELDS then return end
  table.sort(names) -- so that it is written in one order, wherever it is kept
  local values, kept = call('HMGET', head, unpack(names)), {}
  for index, name in ipairs(names) do kept[2 * index - 1], kept[2 * index] = name, values[index] end
  call('UNLINK', head)
  call('HSET', head, unpack(kept))
end
