-- Record how an attempt ended, or how a nested run stands.
-- ARGV  6 member, 7 ending, 8 epoch, 9 attempt, 10 payload: the result, or the failure's details,
--       11 plan of the runs that the job nested, or '', 12 '1' for the word of a nested run,
--       13 '1' when the expiry of all keys is to be put off; those that a transition makes have theirs anyway
--       and, when a message may go onward, 14 its duty, 15 the birth of the run it is of, then what `enqueue` takes: the
--       broker's own script, which has been put in between the prelude and this
-- KEYS  16 what `enqueue` takes
-- returns {'counts' | 'duplicate' | 'stale' | 'refused' | 'unknown', duty...}; {'onward', {line, row, birth} of what
--         comes next, duty...}: it counts, and the message has gone; or {'over'}: `owed` has the keys for what there
--         may be to do
local member, ending, epoch, attempt, payload = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local nested, of_run, due = ARGV[11], ARGV[12] == '1', ARGV[13] == '1'
local KINDS = {open = OPEN, attempted = ATTEMPTED, failing = FAILING, dead = DEAD}
local LAST = 2 ^ 31 -- the attempt of a run that is gone: whatever it has told, it is dead until the next epoch

if not run.state then return {call('EXISTS', mark) == 1 and 'over' or 'unknown'} end
if run.state == 'succeeded' or run.stage > stage then return {'over'} end
local total = total_of(run.line)
if run.stage == stage and (not total or tonumber(member) >= total) then return {'refused'} end
if run.state == 'cancelled' then
  -- What a nested run has come to is kept for a retry: it tells but once. A job's result is dropped, it works again.
  if not (of_run and ending == 'succeeded' and run.stage == stage and call('HEXISTS', here.halted, '') == 1) then
    return {'over'}
  end
  call('HSET', here.halted, member, 'S' .. payload)
  call('ZREM', here.standing, member)
  call('HDEL', here.details, member)
  touch()
  return answer('counts')
end
local marks = call('HMGET', here.marks, '', member)
if run.stage < stage or not marks[1] then return {'unknown'} end

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
  if stands then
    call('ZREM', here.standing, member)
    call('HDEL', here.details, member)
  end
elseif ending == 'succeeded' then
  call('HSET', here.marks, member, 'N')
  call('HSET', here.nests, member, nested)
  call('HDEL', here.details, member) -- its runs tell in an order of their own
  stand(member, OPEN)
  owe('start:' .. stage .. ':' .. member)
elseif newer() then
  call('HSET', here.marks, member, first == '' and of_run and 'R' or first)
  call('HSET', here.details, member, epoch .. ' ' .. attempt .. ' ' .. (ending == 'open' and 0 or payload))
  stand(member, KINDS[ending])
else
  word = 'stale'
end

-- Enqueue the message of a duty. Where that fails, it is owed.
local onward = false
go_onward = ARGV[14] and function(id)
  if id ~= ARGV[14] or run.birth ~= ARGV[15] then return false end
  onward = pcall(enqueue, {KEYS[16]}, {unpack(ARGV, 16)})
  return onward
end

look()
if due or ending ~= 'succeeded' or nested ~= '' then touch() else update() end
clean_up()
if not onward then return answer(word) end
local reply = answer('onward')
table.insert(reply, 2, next_of(run.stage))
return reply
