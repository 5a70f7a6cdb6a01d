-- Say whether a job is still wanted. Changes nothing.
-- KEYS  1 head, 2 mark, 3 marks of the job's stage
-- ARGV  1 stage, 2 member, 3 how many members the message says the stage has, 4 generation
-- returns 'go' | 'done' | 'over' | 'unknown'
local head, mark, marks = KEYS[1], KEYS[2], KEYS[3]
local stage, member, of, generation = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
local run = redis.call('HMGET', head, 'state', 'stage', 's' .. stage, 'gen')
if not run[1] or run[4] ~= generation then
  local whose = string.match(redis.call('GET', mark) or '', '^%a+ (%w*)')
  return whose == generation and 'over' or 'unknown'
end
if run[1] == 'succeeded' or run[1] == 'cancelled' or tonumber(run[2]) > stage then return 'over' end
local total = run[3] and tonumber(string.match(run[3], '^%d+ (%d+) '))
if tonumber(run[2]) < stage or total ~= of then return 'unknown' end
local stands = redis.call('HGET', marks, member)
local first = stands and string.sub(stands, 1, 1)
return (first == 'S' or first == 'N') and 'done' or 'go'
