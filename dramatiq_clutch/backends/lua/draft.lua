-- Write the next rows of a plan, once.
-- KEYS  draft
-- ARGV  offset of the first of them, how long they live (ms), row...
-- returns 'written' (by this call or by an earlier one), or 'expired': those before them are gone
local draft, offset = KEYS[1], tonumber(ARGV[1])
local there, rows = redis.call('LLEN', draft), #ARGV - 2
if there < offset then return 'expired' end
if there == offset and rows > 0 then redis.call('RPUSH', draft, unpack(ARGV, 3)) end
redis.call('PEXPIRE', draft, ARGV[2])
return 'written'
