-- Ring a queue's doorbell, unless it rings already.
-- KEYS doorbell
-- ARGV lingers
-- `doorbell` is the list that idle workers wait at for a token. One that nobody takes stays for `lingers` milliseconds.
-- returns how many tokens there were: 0 or 1
local ringing = redis.call('LLEN', doorbell)
if ringing == 0 then redis.call('RPUSH', doorbell, '1') end
redis.call('PEXPIRE', doorbell, lingers)
return ringing
