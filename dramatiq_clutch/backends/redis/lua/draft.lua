-- Append the next entries to a list, once however often it is called: a plan's rows, or the items of a mapped stage.
-- KEYS list
-- ARGV offset number, ttl, entries...
-- `offset` is the index of the first of the `entries`; `ttl` is in milliseconds.
-- returns 'written', by this call or by an earlier one; or 'expired': entries before `offset` are gone
local there = redis.call('LLEN', list)
if there < offset then return 'expired' end
if there == offset and #entries > 0 then
  redis.call('RPUSH', list, unpack(entries))
elseif there == 0 then
  redis.call('RPUSH', list, '') -- a list without entries has to exist, so that `seal` can tell that it was written
end
redis.call('PEXPIRE', list, ttl)
return 'written'
