-- Take a run out of the index, unless somebody has put it down for another time than `at` meanwhile.
-- KEYS index
-- ARGV run_id, at number
-- returns 1 if this call has taken it out, or 0
if tonumber(redis.call('ZSCORE', index, run_id) or -1) ~= at then return 0 end
return redis.call('ZREM', index, run_id)
