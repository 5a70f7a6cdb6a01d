-- What is left of a run under its id: 'done' or 'buried', its generation, and its claim and application, or the epoch
-- in which it was buried.
-- USES run
-- KEYS mark
local function marked()
  return string.match(call('GET', mark) or '', '^(%a+) (%w*) ?(.*)$')
end

local function is_marked()
  local what, whose = marked()
  return what ~= nil and whose == generation
end
