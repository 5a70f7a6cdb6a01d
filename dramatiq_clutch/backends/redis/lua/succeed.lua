-- The common case of `record`: members' first attempts succeed, and others are still to come.
-- KEYS members
-- ARGV total number, batch number, results...
-- `members` are those of the jobs' stage, which has `total` members; `batch` is how many attempts make a look worth
-- while, or 0; `results` are, for each of some members, its index and 'S' .. result.
-- returns for each: 'counts'; 'last': it counts, and the whole transition has to see what that means; 'look': nothing
--         is recorded here, that is left to the whole transition. So it is with the member that completes the stage:
--         no moment lies between its success and what that means.
local words, fresh, latest = {}, 0, nil
for index = 1, #results, 2 do
  local counts = redis.call('HSETNX', members, results[index], results[index + 1]) == 1
  words[#words + 1] = counts and 'counts' or 'look'
  if counts then fresh, latest = fresh + 1, #words end
end
local fields = redis.call('HLEN', members)
if fields == fresh then -- no live key: the stage is over, or has expired
  redis.call('DEL', members)
  for index = 1, #words do words[index] = 'look' end
elseif latest then
  local before, now = fields - 1 - fresh, fields - 1
  if now >= total then
    redis.call('HDEL', members, results[2 * latest - 1])
    words[latest] = 'look'
  elseif batch > 0 and math.floor(before / batch) < math.floor(now / batch) then
    words[latest] = 'last'
  end
end
return words
