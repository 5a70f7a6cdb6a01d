-- Collect what the holder of a duty to send a few members needs, so that it needn't read that itself.
-- USES line, ahead
-- KEYS plan, before.members, here.members

-- For a `start` duty: the epoch. For a `send` duty: the spec, the members' rows, the line and the result of the stage
-- before if that has one member, and the stage that follows. All are empty if the duty has too many members.
local function needs(id, line)
  if string.sub(id, 1, 6) == 'start:' then return {run.epoch} end
  local index, from, to = string.match(id, '^send:(%d+):(%d+):(%d+)')
  if not index then return {} end
  local offset = string.match(line, '^%d+')
  if not offset or to - from > FEW or has_flag('m', line) then return {'', {}, {}, {}} end
  index = tonumber(index)
  local rows, previous = call('LRANGE', plan, offset + from, offset + to - 1), {}
  local recorded = ({[stage] = before.members, [stage + 1] = here.members})[index]
  if has_flag('i', line) and index > 0 and index == run.stage and recorded then
    local source = line_of(index - 1)
    if total_of(source) == 1 and call('HSTRLEN', recorded, '0') <= LITTLE then
      previous = {source, call('HGET', recorded, '0') or ''}
    end
  end
  return {call('HGET', head, 'spec'), rows, previous, total_of(line) == 1 and next_of(index) or {}}
end
