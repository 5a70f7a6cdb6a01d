-- Have a run that has succeeded go as soon as its result, because there are enough newer ones to look through.
-- KEYS head, outbox, callbacks, failures, tally
-- ARGV generation
-- returns 1 if this call has put the expiry of the run's status forward, or 0
local state, whose, ttl = unpack(redis.call('HMGET', head, 'state', 'gen', 'result_ttl'))
if state ~= 'succeeded' or whose ~= generation or redis.call('EXISTS', outbox, callbacks) > 0 then return 0 end
redis.call('HDEL', head, 'history')
if redis.call('PTTL', head) <= tonumber(ttl) then return 0 end
redis.call('PEXPIRE', failures, ttl)
redis.call('PEXPIRE', tally, ttl)
return redis.call('PEXPIRE', head, ttl)
