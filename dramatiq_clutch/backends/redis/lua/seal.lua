-- Make a run of a plan whose rows are written, and owe its first stage.
-- USES take, turn, life, tombstone, expiry
-- KEYS draft
-- ARGV run_ttl number, result_ttl, claim, parent_epoch, rows number, app, due number, fresh_for number, more...
-- `draft` is the list of written rows, and `rows` is how many it must have. `claim` is the clutch's fingerprint, or ''.
-- `parent_epoch` is '' for a run that isn't nested. `due` is until when the first stage is delayed (UNIX ms), or 0.
-- `more` are fields of the head, each followed by its value. A draft is fresh for `fresh_for` ms after its last row was
-- written; later than that a sweeper may have looked for the run in vain and have taken it out of the index for good.
-- returns {'created' | 'exists' | 'taken' | 'foreign' | 'expired' | 'late', note, duty...}
local nested = parent_epoch ~= ''
if run.state or (stranger and not nested) then
  call('UNLINK', draft)
  local its_app, token = unpack(call('HMGET', head, 'app', 'token'))
  if its_app ~= app then return {'foreign', its_app} end
  if run.claim ~= claim then return {'taken', ''} end
  if stranger then return {'exists', ''} end
  if token == owner then say_turn() end
  return answer(token == owner and 'created' or 'exists')
end
local what, whose, detail = read_tombstone()
if what == 'done' and (whose == generation or not nested) then
  call('UNLINK', draft)
  local its_claim, its_app = string.match(detail, '^(%S*) ?(.*)$')
  if its_app ~= app then return {'foreign', its_app} end
  return {(nested or its_claim == claim) and 'exists' or 'taken', ''}
elseif what == 'buried' and whose == generation and not (nested and tonumber(detail) < tonumber(parent_epoch))
  or nested and is_past(generation) then
  call('UNLINK', draft)
  return {'exists', ''}
end
if call('LLEN', draft) ~= math.max(rows, 1) then return {'expired', ''} end
if DRAFT_TTL - call('PTTL', draft) > fresh_for then return {'late', ''} end
clear_tombstone()
if stranger then remember_past(run.generation, A_DAY) end
if stranger then call('UNLINK', head) end -- it was nested in an earlier run under our parent's id
for index = 1, #more, 2 do call('HSET', head, more[index], more[index + 1]) end
call('HSET', head, 'state', 'running', 'stage', 0, 'ttl', run_ttl, 'result_ttl', result_ttl, 'claim', claim,
  'token', owner, 'since', nested and parent_epoch or 0, 'created', now, 'updated', now, 't' .. stage, now,
  'gen', generation, 'app', app)
read_run()
turn('running')
wait_until(due)
call('PEXPIRE', head, lifetime())
report('started', 0, 0)
if run.stages == 0 then
  rest('succeeded', 0, 0)
  tell()
else
  local line = begin_stage(0, number_in(run.line, 'wait') > 0 and math.max(now, due) or now)
  if rows > 0 then
    call('RENAME', draft, plan)
    call('PEXPIRE', plan, lifetime())
  end
  call('HSET', here.members, '', '')
  call('PEXPIRE', here.members, lifetime())
  owe_stage(0, begin_deadlines(line, true, nested and math.max(now, due) or now)) -- a nested run may start later
end
call('UNLINK', draft)
clean_up()
return answer('created')
