-- Record how an attempt ended.
-- ARGV  6 member, 7 ending, 8 epoch, 9 attempt, 10 payload: the result, or the failure's details
-- returns {'counts' | 'duplicate' | 'stale' | 'over' | 'refused' | 'unknown', duty...}
local member, ending, epoch, attempt, payload = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local kinds = {attempted = ATTEMPTED, failing = FAILING, dead = DEAD}

if not run.state then return {call('EXISTS', mark) == 1 and 'over' or 'unknown'} end
if run.state == 'succeeded' or run.stage > stage then return answer('over') end
if run.stage < stage or call('EXISTS', here.marks) == 0 then return {'unknown'} end
local total = total_of(run.line)
if not total or tonumber(member) >= total then return {'refused'} end

local stands = call('HGET', here.marks, member)
local word = 'counts'
if stands and string.sub(stands, 1, 1) == 'S' then
  word = 'duplicate'
elseif ending == 'succeeded' then
  call('HSET', here.marks, member, 'S' .. payload)
  call('ZREM', here.standing, member)
  call('HDEL', here.details, member)
else
  local last = call('HGET', here.details, member)
  local last_epoch, last_attempt = string.match(last or '-1 -1 ', '^(%-?%d+) (%-?%d+) ')
  last_epoch, last_attempt = tonumber(last_epoch), tonumber(last_attempt)
  if epoch < last_epoch or (epoch == last_epoch and attempt <= last_attempt) then
    word = 'stale'
  else
    call('HSET', here.marks, member, '')
    call('ZADD', here.standing, kinds[ending] * SPAN + tonumber(member), member)
    call('HSET', here.details, member, epoch .. ' ' .. attempt .. ' ' .. payload)
  end
end
look()
touch()
if run.state == 'succeeded' then clean_up() end
return answer(word)
