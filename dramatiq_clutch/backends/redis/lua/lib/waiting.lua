-- Members that wait to be sent again: those of an earlier revival, or era.
-- USES members

-- Some of them.
local function next_waiting(most)
  local found = call('ZRANGEBYSCORE', here.dead, '-inf', below(run.revival * SPAN), 'LIMIT', 0, most)
  if #found < most then
    local others = call('ZRANGEBYSCORE', here.standing, '-inf', below(run.era * ERA), 'LIMIT', 0, most - #found)
    for _, member in ipairs(others) do found[#found + 1] = member end
  end
  return found
end

-- They are open again, as `stand` does it for each, in two calls for all.
local function work_again(members)
  local standing = {}
  for index, member in ipairs(members) do
    standing[2 * index - 1], standing[2 * index] = run.era * ERA + WORKING * SPAN + tonumber(member), member
  end
  call('ZREM', here.dead, unpack(members))
  call('ZADD', here.standing, unpack(standing))
end
