-- The common case of `record`: a member's first attempt succeeds, and others are still to come.
-- KEYS  marks of the job's stage
-- ARGV  member, 'S' .. result, how many members the stage has
-- returns 'counts'; 'last': it counts, and the whole transition has to see what that means; 'look': only that can tell
local marks, member, result, total = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local fresh = redis.call('HSETNX', marks, member, result)
local fields = redis.call('HLEN', marks)
if fields == 1 then redis.call('DEL', marks) end -- no live key: the stage is over, or has expired
if fresh == 0 or fields == 1 then return 'look' end
return fields - 1 < total and 'counts' or 'last'
