-- Put a run down in the index for another look, or take it out, unless somebody has done that since the caller has.
-- KEYS index
-- ARGV run_id, instead number, at, ttl
-- `instead` is the time for which the caller believes the run to be put down (UNIX ms). `at` is the new one, or '' to
-- take it out. `ttl` is that of the index, in milliseconds.
-- returns 1 if this call has changed the index, or 0
if tonumber(redis.call('ZSCORE', index, run_id) or -1) ~= instead then return 0 end
if at == '' then return redis.call('ZREM', index, run_id) end
redis.call('ZADD', index, at, run_id)
redis.call('PEXPIRE', index, ttl)
return 1
