-- Make a written plan a run, and owe its first stage.
-- ARGV  6 run_ttl, 7 result_ttl, 8 claim, 9 epoch of the parent, 10 how many rows the draft has to have, then the
--       head's fields and values
-- KEYS  16 draft: the rows as they were written
-- returns {'created' | 'exists' | 'taken' | 'expired', duty...}
local draft, run_ttl, result_ttl, claim, epoch = KEYS[16], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
if run.state then
  call('UNLINK', draft)
  if run.claim ~= claim then return {'taken'} end
  return answer(call('HGET', head, 'token') == owner and 'created' or 'exists')
end
local marked = call('GET', mark)
local buried = marked and string.match(marked, '^buried (%d+)$')
if marked and not (buried and tonumber(buried) < epoch) then
  call('UNLINK', draft)
  return {(buried or marked == claim) and 'exists' or 'taken'}
end
if call('LLEN', draft) ~= tonumber(ARGV[10]) then return {'expired'} end
call('DEL', mark)
run.ttl, run.result_ttl, run.stage, run.claim = run_ttl, result_ttl, 0, claim
for index = 11, #ARGV, 2 do call('HSET', head, ARGV[index], ARGV[index + 1]) end
call('HSET', head, 'state', 'running', 'stage', 0, 'ttl', run_ttl, 'result_ttl', result_ttl, 'claim', claim,
  'token', owner, 'since', epoch, 'created', now, 'updated', now)
local stored = call('HMGET', head, 'stages', 'events', 'told', 's0', 'share')
run.state, run.stages, run.events, run.told = 'running', tonumber(stored[1]), stored[2], stored[3]
run.line, run.share = stored[4] or '', tonumber(stored[5])
if run.stages == 0 then
  rest('succeeded')
  tell()
else
  if call('EXISTS', draft) == 1 then call('RENAME', draft, plan) end
  call('HSET', here.marks, '', '')
  owe_stage(0, run.line)
end
touch()
clean_up()
return answer('created')
