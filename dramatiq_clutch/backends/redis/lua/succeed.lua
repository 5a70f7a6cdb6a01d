-- Record successes of members of one stage, in the common case of `record`: the stage isn't complete with them.
-- KEYS members, broker?
-- ARGV total number, batch number, acks number, began, results...
-- `members` is the hash of the jobs' stage, which has `total` members. `batch` is after how many successes of a stage
-- with a limit it is worth looking for members to send, or 0. `began` is when the first of these attempts began
-- (UNIX ms), or ''. The first `acks` of `results` are what the broker's script takes to ack a message, but for the
-- message's id. Then `results` has for each member its index, 'S' before its result, and the id of its message in the
-- broker's queue, or ''. The messages of members that count are acked in the same step by `dispatch`, the broker's
-- script as a function; with no `acks`, none is.
-- returns for each member: 'counts'; 'last': it counts and fills a batch, so call `record` to find out what follows;
--         'look': nothing is recorded here, because the member is known already, the key is gone, or the member would
--         complete the stage, so call `record`, which records it and completes the stage in the same step
local words, fresh, latest = {}, 0, nil
for index = acks + 1, #results, 3 do
  local counts = redis.call('HSETNX', members, results[index], results[index + 1]) == 1
  words[#words + 1] = counts and 'counts' or 'look'
  if counts then fresh, latest = fresh + 1, #words end
end
local fields = redis.call('HLEN', members)
if fields == fresh then -- the key was missing, since a live one has the field '': the stage is over, or has expired
  redis.call('DEL', members)
  for index = 1, #words do words[index] = 'look' end
elseif latest then
  local before, now = fields - 1 - fresh, fields - 1
  if before == 0 and began ~= '' then redis.call('HSET', members, '', began) end -- the stage's first record
  if now >= total then
    redis.call('HDEL', members, results[acks + 3 * latest - 2])
    words[latest] = 'look'
  elseif batch > 0 and math.floor(before / batch) < math.floor(now / batch) then
    words[latest] = 'last'
  end
end
if acks == 0 then return words end
local ack = {unpack(results, 1, acks)}
for index = 1, #words do
  local id = results[acks + 3 * index]
  if words[index] == 'counts' and id ~= '' then
    ack[acks + 1] = id
    dispatch({broker}, ack)
  end
end
return words
