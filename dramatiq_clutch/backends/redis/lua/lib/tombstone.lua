-- What is left of a run under its id: 'done' or 'buried', its generation, and its claim and application, or the epoch
-- in which it was buried.
-- USES run
-- KEYS tombstone
local function read_tombstone()
  return string.match(call('GET', tombstone) or '', '^(%a+) (%w*) ?(.*)$')
end

local function has_tombstone()
  local what, whose = read_tombstone()
  return what ~= nil and whose == generation
end
