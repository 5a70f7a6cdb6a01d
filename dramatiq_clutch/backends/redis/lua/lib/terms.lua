-- What it takes for a stage to be complete.
-- USES line

-- How many of its `total` members must succeed, and how many may die. Of a share the whole members count; what is added
-- to it makes up for the inexact product, such as 0.29 * 100.
local function terms(total)
  local enough = tonumber(word_of('enough'))
  if enough then
    enough = math.min(enough, total)
    return enough, total - enough
  end
  if has_flag('t') then return total, total end
  local allowed = tonumber(word_of('allow') or 0)
  return total, allowed < 1 and math.floor(allowed * total + 1e-9) or allowed
end
