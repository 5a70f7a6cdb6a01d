-- Put runs where they belong in the register, and let go of some that have ended, the oldest first.
-- USES entry
-- ARGV most number, ended_before, stopped_before, ttl, runs...
-- At most `most` runs that have ended are kept: of those that have succeeded since `ended_before`, or have failed or
-- were cancelled since `stopped_before` (UNIX ms). `ttl` is how long the register lives after this call (ms). `runs`
-- has for each run its id, its entry, and the generation whose entry is out of date, or ''.
-- returns {id, generation, ...} of runs that have succeeded, and have left the register because there were too many
for index = 1, #runs, 3 do
  local id, entry, instead = runs[index], runs[index + 1], runs[index + 2]
  local known = call('HGET', entries, id)
  if known ~= entry and (not known or may_follow(known, entry, instead)) then put(id, entry) end
end

for set, before in pairs({[ended] = ended_before, [stopped] = stopped_before}) do
  for _, id in ipairs(call('ZRANGEBYSCORE', set, '-inf', before, 'LIMIT', 0, STEP)) do take_out(id) end
end

local over, left = call('ZCARD', ended) + call('ZCARD', stopped) - most, {}
if over > 0 then
  local leaving = math.min(math.max(over, math.ceil(most / STEP)), STEP) -- some at a time, so that it is done seldom
  local oldest = {}
  for _, set in ipairs({ended, stopped}) do
    for _, id in ipairs(call('ZRANGE', set, 0, leaving - 1)) do
      oldest[#oldest + 1] = {id = id, at = tonumber(call('ZSCORE', set, id)), is_kept = set == ended}
    end
  end
  table.sort(oldest, function(one, other) return one.at < other.at end)
  for index = 1, math.min(leaving, #oldest) do
    local id = oldest[index].id
    local generation = string.match(call('HGET', entries, id) or '', ENTRY)
    if oldest[index].is_kept and generation then
      left[#left + 1] = id
      left[#left + 1] = generation
    end
    take_out(id)
  end
end
for _, key in ipairs({entries, places, ended, stopped}) do call('PEXPIRE', key, ttl) end
return left
