-- Make a written plan a run, and owe its first stage.
-- ARGV  7 run_ttl, 8 result_ttl, 9 claim, 10 epoch of the parent, or '' for a run that isn't nested, 11 how many rows the
--       draft has to have, 12 the application, 13 until when its first stage is delayed (ms), then the head's fields and
--       values
-- KEYS  19 draft: the rows as they were written
-- returns {'created' | 'exists' | 'taken' | 'foreign' | 'expired', note, duty...}
local draft, run_ttl, result_ttl, claim, epoch = KEYS[19], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local app, due = ARGV[12], tonumber(ARGV[13])
local nested = epoch ~= ''
if run.state or (stranger and not nested) then
  call('UNLINK', draft)
  local its_app, token = unpack(call('HMGET', head, 'app', 'token'))
  if its_app ~= app then return {'foreign', its_app} end
  if run.claim ~= claim then return {'taken', ''} end
  if stranger then return {'exists', ''} end
  return answer(token == owner and 'created' or 'exists')
end
local what, whose, detail = marked()
if what == 'done' and (whose == generation or not nested) then
  call('UNLINK', draft)
  local its_claim, its_app = string.match(detail, '^(%S*) ?(.*)$')
  if its_app ~= app then return {'foreign', its_app} end
  return {(nested or its_claim == claim) and 'exists' or 'taken', ''}
elseif what == 'buried' and whose == generation and not (nested and tonumber(detail) < tonumber(epoch)) then
  call('UNLINK', draft)
  return {'exists', ''}
end
if call('LLEN', draft) ~= tonumber(ARGV[11]) then return {'expired', ''} end
call('DEL', mark)
if stranger then call('UNLINK', head) end -- it was nested in another run that had our parent's id
run.ttl, run.result_ttl, run.stage, run.claim, run.app, run.due = tonumber(run_ttl), result_ttl, 0, claim, app, due
for index = 14, #ARGV, 2 do call('HSET', head, ARGV[index], ARGV[index + 1]) end
call('HSET', head, 'state', 'running', 'stage', 0, 'ttl', run_ttl, 'result_ttl', result_ttl, 'claim', claim,
  'token', owner, 'since', nested and epoch or 0, 'created', now, 'updated', now, 'gen', generation, 'app', app)
if due > 0 then call('HSET', head, 'until', due) end
local stored = call('HMGET', head, 'stages', 'events', 'told', 's0', 'share')
run.state, run.stages, run.events, run.told = 'running', tonumber(stored[1]), stored[2], stored[3]
run.line, run.share, run.generation = stored[4] or '', tonumber(stored[5]), generation
run.later, run.alarmed, run.mourned, run.error, run.epoch = {}, false, false, '', 0
run.era, run.revival, run.retrying, run.stalled, run.sent = 0, 0, '', false, 0
call('PEXPIRE', head, lifetime())
if run.stages == 0 then
  rest('succeeded')
  tell()
else
  if call('EXISTS', draft) == 1 then
    call('RENAME', draft, plan)
    call('PEXPIRE', plan, lifetime())
  end
  call('HSET', here.marks, '', '')
  call('PEXPIRE', here.marks, lifetime())
  owe_stage(0, run.line)
end
clean_up()
return answer('created')
