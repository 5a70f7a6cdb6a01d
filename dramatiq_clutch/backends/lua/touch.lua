-- Put the expiry of the run's keys off.
-- ARGV  7 until when something of it is delayed (ms), or 0
-- returns {'touched' | 'unknown'}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
local due = tonumber(ARGV[7])
if due > run.due then
  run.due = due
  call('HSET', head, 'until', due)
end
if run.state == 'succeeded' then
  clean_up() -- it lives for its result_ttl, or as long as its callbacks
else
  touch()
end
return {'touched', ''}
