-- Write the next entries of a list, once: a plan's rows, or what a stage is mapped over.
-- KEYS list
-- ARGV offset number, ttl, entries...
-- returns 'written' (by this call or by an earlier one), or 'expired': those before them are gone
local there = redis.call('LLEN', list)
if there < offset then return 'expired' end
if there == offset and #entries > 0 then
  redis.call('RPUSH', list, unpack(entries))
elseif there == 0 then
  redis.call('RPUSH', list, '') -- there are no entries, and yet it can be told that they were written
end
redis.call('PEXPIRE', list, ttl)
return 'written'
