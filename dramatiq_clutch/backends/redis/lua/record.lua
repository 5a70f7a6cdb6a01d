-- Record how an attempt ended, or how a nested run stands.
-- USES step, take, onward, life, times, tombstone, expiry, clocking, waiting
-- KEYS here.halted
-- ARGV payload, renew flag, due number
-- `clocking` has the others. `payload` is the result, or the failure's details. `renew`: renew the expiry of all keys
-- of the run (those that this call makes get one in any case). `due`: when the next attempt is due (UNIX ms), or 0.
-- returns {'counts' | 'duplicate' | 'stale' | 'refused' | 'unknown', note, duty...}; with the broker's script, what
--         `along_with` adds stands before the duties, or all is one string (see `lib/along`). Or {'over'}: it doesn't
--         count, so call `owed`, which gets the keys of the present stage, for what the run may owe
local KINDS = {working = WORKING, attempted = ATTEMPTED, failing = FAILING, dead = DEAD}
if not run.state then return {is_over() and 'over' or 'unknown', ''} end
if run.timed then note_end() end
if run.state == 'succeeded' or run.stage > stage then return {'over'} end
local total = total_of(run.line)
if run.stage == stage and (not total or tonumber(member) >= total) then return {'refused', ''} end
if run.state == 'cancelled' then
  -- A child's success is stored, as it is told once and `retry` needs it. A job's result is dropped: it runs again.
  run.began = call('HGET', here.halted, '')
  if not (of_run and ending == 'succeeded' and run.stage == stage and run.began) then return {'over'} end
  clock(string.sub(call('HGET', here.halted, member) or '', 1, 1), here.halted)
  enter(member, 'S' .. payload, began, here.halted)
  unstand(member)
  touch()
  return answer('counts')
end
-- In a run that broke off, only what is final counts; and of nested runs, which are cancelled, only a success.
if run.broken and ending ~= 'succeeded' and (of_run or ending ~= 'dead') then return {'over'} end
local recorded = call('HMGET', here.members, '', member)
if run.stage < stage or not recorded[1] then return {'unknown', ''} end
run.began = recorded[1]
local stands, word, first = recorded[2], 'counts', string.sub(recorded[2] or '', 1, 1)
if of_run and attempt == LAST then epoch = run.epoch end
if first == 'S' or (first == 'N' and not of_run) then
  word = 'duplicate'
elseif ending ~= 'succeeded' and is_of_before(member, epoch, first) then
  word = 'stale' -- a run that broke off would break off again for it
elseif ending == 'succeeded' and nested == '' then
  enter(member, 'S' .. payload, began)
  if stands then unstand(member) end
elseif ending == 'succeeded' then
  enter(member, 'N', began)
  call('HSET', here.nests, member, nested)
  stand(member, WORKING)
  call('HDEL', here.attempts, member) -- its runs count their revisions from 1, whatever attempts the job had
  if not run.broken then owe('start:' .. stage .. ':' .. member) end
elseif is_newer(member, epoch, attempt) and (of_run or ending == 'dead' or has_place(member)) then
  enter(member, first == '' and of_run and 'R' or first, began)
  stand(member, KINDS[ending], payload, due)
  call('HSET', here.attempts, member, epoch .. ' ' .. attempt .. ' ' .. (ending == 'working' and '' or payload))
  if ending == 'dead' then report('dead', 0, 0, member, payload) end
  wait_until(due)
else
  word = 'stale'
end

if word == 'counts' then clock(first) end
look()
if renew or ending ~= 'succeeded' or nested ~= '' then touch() else update() end
clean_up()
return along_with(answer(word))
