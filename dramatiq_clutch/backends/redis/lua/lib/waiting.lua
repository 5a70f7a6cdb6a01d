-- Take up members that wait to be sent again: the dead of earlier revivals, and the unsettled of earlier eras.
-- USES members

-- The first of these members, at most `most`.
local function next_waiting(most)
  local found = call('ZRANGEBYSCORE', here.dead, '-inf', below(run.revival * SPAN), 'LIMIT', 0, most)
  if #found < most then
    local others = call('ZRANGEBYSCORE', here.standing, '-inf', below(run.era * ERA), 'LIMIT', 0, most - #found)
    for _, member in ipairs(others) do found[#found + 1] = member end
  end
  return found
end

-- Make these members `working` again. `stand` would do so for one member; this takes two calls for all of them.
local function work_again(members)
  local standing = {}
  for index, member in ipairs(members) do
    standing[2 * index - 1], standing[2 * index] = run.era * ERA + WORKING * SPAN + tonumber(member), member
  end
  call('ZREM', here.dead, unpack(members))
  call('ZADD', here.standing, unpack(standing))
end

local function waits(member)
  local buried, stands = call('ZSCORE', here.dead, member), call('ZSCORE', here.standing, member)
  return tonumber(buried or math.huge) < run.revival * SPAN or tonumber(stands or math.huge) < run.era * ERA
end

-- Whether what a member has come to is of before the retry that sends it again. What a job has nested may be of an
-- earlier epoch, though it was started since: that is told by whether it waits. `first` begins the member's field.
local function is_of_before(member, epoch, first)
  return epoch < run.taken_up and tonumber(member) < run.taken_to and (first ~= 'N' or waits(member))
end
