-- Say whether a job is still wanted; in a run with timings, note that its attempt begins if it is. Nothing else is
-- changed: if a deadline is over, `owed` lets the run fail of it.
-- USES timings
-- KEYS head, tombstone, past, members, times
-- ARGV stage number, member, of number, now number, generation, epoch number, attempt number, worker
-- `members` and `times` are of the job's stage, and `of` is how many members the message says that it has. `worker` is
-- the name of the one that asks; '' in a run without timings.
-- returns 'go' | 'done' | 'over' | 'unknown'
local run = redis.call('HMGET', head, 'state', 'stage', 's' .. stage, 'gen', 'broken',
  'run_by', 'stage_by', 'era')
if not run[1] or run[4] ~= generation then
  local whose = string.match(redis.call('GET', tombstone) or '', '^%a+ (%w*)')
  local before = ' ' .. (redis.call('GET', past) or '') -- the generations that have had the id
  return (whose == generation or string.find(before, ' ' .. generation .. ' ', 1, true)) and 'over' or 'unknown'
end
local rests = run[1] == 'succeeded' or run[1] == 'cancelled' or run[5] == '1'
if rests or tonumber(run[2]) > stage then return 'over' end
local by = math.min(tonumber(run[6] or '') or math.huge, tonumber(run[7] or '') or math.huge)
if run[1] == 'running' and tonumber(run[2]) == stage and now >= by then return 'over' end
local total = run[3] and tonumber(string.match(run[3], '^%d+ (%d+) '))
if tonumber(run[2]) < stage or total ~= of then return 'unknown' end
local stands = redis.call('HGET', members, member)
local first = stands and string.sub(stands, 1, 1)
if first == 'S' or first == 'N' then return 'done' end
if worker ~= '' then begin_attempt(times, members, member, epoch, attempt, now, run[8] or 0, worker) end
return 'go'
