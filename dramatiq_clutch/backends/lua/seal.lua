-- Make a written plan a run, and owe its first stage.
-- ARGV  6 run_ttl, 7 result_ttl, 8 created-by token, then the head's fields and values
-- KEYS  15 draft: the rows as they were written
-- returns {'created' | 'exists', duty...}
local draft, run_ttl, result_ttl, token = KEYS[15], ARGV[6], ARGV[7], ARGV[8]
if run.state then
  return answer(call('HGET', head, 'token') == token and 'created' or 'exists')
end
if call('EXISTS', mark) == 1 then return {'exists'} end
run.ttl, run.result_ttl = run_ttl, result_ttl
for index = 9, #ARGV, 2 do call('HSET', head, ARGV[index], ARGV[index + 1]) end
call('HSET', head, 'state', 'running', 'stage', 0, 'ttl', run_ttl, 'result_ttl', result_ttl, 'token', token,
  'created', now, 'updated', now, 'alarmed', 0)
if call('EXISTS', draft) == 1 then call('RENAME', draft, plan) end
run.state, run.stage = 'running', 0
run.stages = tonumber(call('HGET', head, 'stages'))
if run.stages == 0 then
  rest('succeeded')
  touch()
  clean_up()
  return {'created'}
end
call('HSET', here.marks, '', '')
owe_stage(0, call('HGET', head, 's0'))
touch()
return answer('created')
