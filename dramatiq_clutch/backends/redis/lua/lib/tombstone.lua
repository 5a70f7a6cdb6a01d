-- Read the tombstone under the run's id: 'done', the run's generation, claim and application; or 'buried', the
-- generation, and the epoch of the parent up to which the run isn't to be started.
-- USES run
-- KEYS tombstone
local function read_tombstone()
  return string.match(call('GET', tombstone) or '', '^(%a+) (%w*) ?(.*)$')
end

local function has_tombstone()
  local what, whose = read_tombstone()
  return what ~= nil and whose == generation
end
