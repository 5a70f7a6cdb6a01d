-- Store how many members a released stage has that is mapped or empty. An empty stage is complete at once.
-- USES take, life, expiry
-- ARGV id, total
-- returns {'opened' | 'lost', note, duty...}
if not run.state or not held(id) then return {'lost', ''} end
call('HDEL', outbox, id)
run.line = string.gsub(run.line, '^(%d+) %S+ ', '%1 ' .. total .. ' ')
call('HSET', head, 's' .. stage, run.line)
if total == '0' or is_overdue() then look() else owe_stage(stage, run.line) end
touch()
clean_up()
return answer('opened')
