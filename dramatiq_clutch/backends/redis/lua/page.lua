-- Look through the register for runs that have all the wanted labels, newest first.
-- KEYS places, entries
-- ARGV enough number, after, since, labels...
-- `after` is where an earlier call has left off, or ''. `since` is when the oldest wanted runs began, as in an entry.
-- The runs of the rarest label are looked at, MANY at most, until `enough` are found.
-- returns {where it has left off, or '' at the end, id, entry, id, entry, ...}
local call = redis.call
local label, fewest
for _, one in ipairs(labels) do
  local runs = call('ZLEXCOUNT', places, '[' .. one .. since, '(' .. one .. ':') -- a colon comes after all digits
  if not fewest or runs < fewest then label, fewest = one, runs end
end

local found, looked = {after}, 0
local least = '[' .. label .. since
repeat
  local most = '(' .. label .. (found[1] == '' and ':' or found[1])
  local some = call('ZREVRANGEBYLEX', places, most, least, 'LIMIT', 0, enough)
  for _, place in ipairs(some) do
    found[1] = string.sub(place, LABEL + 1)
    local id, is_wanted = string.sub(found[1], 15), true
    for _, other in ipairs(labels) do
      is_wanted = is_wanted and (other == label or call('ZSCORE', places, other .. found[1]))
    end
    if is_wanted then
      found[#found + 1] = id
      found[#found + 1] = call('HGET', entries, id) or ''
    end
    looked = looked + 1
    if #found > 2 * enough then return found end
  end
  if #some < enough then
    found[1] = ''
    return found
  end
until looked >= MANY
return found
