-- Tell what a member of a stage was written with, and what else it is called with.
-- USES line
-- KEYS plan, before.members, here.items
-- A value is told as 'S' and its bytes, as in `members`; as '' if it isn't there (any more), or is large.

-- The row of a member in the plan; of a nested run only its first letter, 'r', and '' if the plan is gone.
local function row_of(member)
  local at = string.format('%.0f', string.match(run.line, '^%d+') + (has_flag('m') and 0 or member))
  local row = call('LRANGE', plan, at, at)[1] or ''
  return string.sub(row, 1, 1) == 'r' and 'r' or row
end

local function result_before(member)
  if call('HSTRLEN', before.members, member) > LITTLE then return '' end
  return call('HGET', before.members, member) or ''
end

-- The item of a mapped stage that a member is called with.
local function item_of(member)
  if not has_flag('m') then return '' end
  local item = call('LRANGE', here.items, member, member)[1]
  if item then return #item <= LITTLE and 'S' .. item or '' end
  return has_flag('p', line_of(stage - 1)) and result_before(member) or ''
end

-- The result of the stage before, if that is one value, and the members of this one are called with it.
local function piped_value()
  local source = line_of(stage - 1)
  return has_flag('i') and total_of(source) == 1 and not has_flag('p', source) and result_before(0) or ''
end
