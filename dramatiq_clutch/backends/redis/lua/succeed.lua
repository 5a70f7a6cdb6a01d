-- Record successes of members of one stage, in the common case of `record`: the stage isn't complete with them.
-- USES timings, bunch
-- KEYS members, times, broker?
-- ARGV total number, batch number, acks number, fetches number, began, timed flag, results...
-- `members` is the hash of the jobs' stage, which has `total` members; `times` has when they were at work. `batch` is
-- after how many successes of a stage with a limit it is worth looking for members to send, or 0. `began` is when the
-- first of these attempts began (UNIX ms), or ''. The first `acks` of `results` are what the broker's script takes to
-- ack a message, but for the message's id; the next `fetches` are what it takes to fetch a bunch. Then come for each
-- member its index, 'S' before its result, and the id of its message in the broker's queue, or ''; and if the run is
-- `timed`, the member's entry in `times`. Messages of members that count are acked in the same step by `dispatch`, the
-- broker's script as a function; with no `acks`, none. Then a bunch is fetched, unless `queue` is ''.
-- returns in one string, with blanks between them, for each member: 'counts'; 'last': it counts and fills a batch, so
--         call `record` to find out what follows; 'look': nothing is recorded here, because the member is known
--         already, the key is gone, or the member would complete the stage, so call `record`, which records it and
--         completes the stage in the same step. With a `queue`, the lines that `bunch_with` returns follow
local words, fresh, latest, each = {}, 0, nil, timed and 4 or 3
local before_all = acks + fetches
for index = before_all + 1, #results, each do
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
    redis.call('HDEL', members, results[before_all + each * (latest - 1) + 1])
    words[latest] = 'look'
  elseif batch > 0 and math.floor(before / batch) < math.floor(now / batch) then
    words[latest] = 'last'
  end
end
for index = 1, timed and #words or 0 do
  local at = before_all + each * (index - 1)
  if words[index] ~= 'look' then write_entry(times, members, results[at + 1], results[at + 4]) end
end
if acks == 0 then return table.concat(words, ' ') end
local ack = {unpack(results, 1, acks)}
for index = 1, #words do
  local id = results[before_all + each * (index - 1) + 3]
  if words[index] == 'counts' and id ~= '' then
    ack[acks + 1] = id
    dispatch({broker}, ack)
  end
end
local told = table.concat(words, ' ')
if queue == '' then return told end
return told .. '\n' .. bunch_with({unpack(results, acks + 1, before_all)})
