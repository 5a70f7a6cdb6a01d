-- Record how an attempt ended, or how a nested run stands.
-- ARGV  7 member, 8 ending, 9 epoch, 10 attempt, 11 payload: the result, or the failure's details,
--       12 plan of the runs that the job nested, or '', 13 '1' for the word of a nested run,
--       14 '1': renew the expiry of all the run's keys. Keys created by this call get one in any case,
--       15 when the next attempt is due (ms), or 0,
--       and, when a message may go onward, 16 its duty, then what `enqueue` takes: the broker's own script, which has
--       been put in between the prelude and this
-- KEYS  19 what `enqueue` takes
-- returns {'counts' | 'duplicate' | 'stale' | 'refused' | 'unknown', note, duty...}; {'onward', note, {line, row} of what
--         comes next, duty...}: it counts, and the message has gone; or {'over'}: `owed` has the keys for what there
--         may be to do
local member, ending, epoch, attempt, payload = ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local nested, of_run, renew, due = ARGV[12], ARGV[13] == '1', ARGV[14] == '1', tonumber(ARGV[15])
local KINDS = {open = OPEN, attempted = ATTEMPTED, failing = FAILING, dead = DEAD}
local LAST = 2 ^ 31 -- the attempt of a run that is gone: whatever it has told, it is dead until the next epoch

if not run.state then return {is_marked() and 'over' or 'unknown', ''} end
if run.state == 'succeeded' or run.stage > stage then return {'over'} end
local total = total_of(run.line)
if run.stage == stage and (not total or tonumber(member) >= total) then return {'refused', ''} end
if run.state == 'cancelled' then
  -- A child's success is still stored, because the child reports it only once and `retry` will need it. A job's result
  -- is dropped: `retry` runs the job again.
  if not (of_run and ending == 'succeeded' and run.stage == stage and call('HEXISTS', here.halted, '') == 1) then
    return {'over'}
  end
  call('HSET', here.halted, member, 'S' .. payload)
  unstand(member)
  touch()
  return answer('counts')
end
local marks = call('HMGET', here.marks, '', member)
if run.stage < stage or not marks[1] then return {'unknown', ''} end

local function newer()
  local last = call('HGET', here.details, member)
  local last_epoch, last_attempt = string.match(last or '-1 -1 ', '^(%-?%d+) (%-?%d+) ')
  last_epoch, last_attempt = tonumber(last_epoch), tonumber(last_attempt)
  return epoch > last_epoch or (epoch == last_epoch and attempt > last_attempt)
end

local stands, word = marks[2], 'counts'
local first = string.sub(stands or '', 1, 1)
if attempt == LAST then epoch = run.epoch end
if first == 'S' or (first == 'N' and not of_run) then
  word = 'duplicate'
elseif ending == 'succeeded' and nested == '' then
  call('HSET', here.marks, member, 'S' .. payload)
  if stands then unstand(member) end
elseif ending == 'succeeded' then
  call('HSET', here.marks, member, 'N')
  call('HSET', here.nests, member, nested)
  call('HDEL', here.details, member) -- its runs tell in an order of their own
  stand(member, OPEN)
  owe('start:' .. stage .. ':' .. member)
elseif newer() then
  call('HSET', here.marks, member, first == '' and of_run and 'R' or first)
  call('HSET', here.details, member, epoch .. ' ' .. attempt .. ' ' .. (ending == 'open' and '' or payload))
  stand(member, KINDS[ending])
  if due > run.due then
    run.due = due
    call('HSET', head, 'until', due)
  end
else
  word = 'stale'
end

-- Enqueue the message of a duty. Where that fails, it is owed.
local onward = false
go_onward = ARGV[16] and function(id)
  if id ~= ARGV[16] then return false end
  onward = pcall(enqueue, {KEYS[19]}, {unpack(ARGV, 17)})
  return onward
end

look()
if renew or ending ~= 'succeeded' or nested ~= '' then touch() else update() end
clean_up()
if not onward then return answer(word) end
local reply = answer('onward')
table.insert(reply, 3, next_of(run.stage))
return reply
