-- `owed` for a sweeper, who also wants to know whether anything happens to the run.
-- USES take, life, expiry
-- ARGV stalled_after number, waits_for_jobs flag
-- After `stalled_after` ms in which nothing happens it counts as stalled. `waits_for_jobs` says that the caller knows
-- that some member that is unsettled is a job: of a stage with nested runs only it can tell.
-- returns {'owing' | 'works' | 'quiet' | 'stalled' | 'rests' | 'unknown', note, duty...}, or {'moved'}. `quiet`:
--         nothing has happened for so long, and the caller has to see what its nested runs do. `stalled`: this call
--         has found it out
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
look()
clean_up()
if run.state ~= 'running' or run.stage ~= stage then
  return answer(run.state == 'running' and 'works' or 'rests', 'owing')
end
local updated, seen, seen_at = unpack(call('HMGET', head, 'updated', 'seen', 'seen_at'))
local found = present(updated)
if found ~= seen then
  seen_at = now
  call('HSET', head, 'seen', found, 'seen_at', now)
  if run.stalled then call('HDEL', head, 'stalled') end
  run.stalled = false
end
local reply = answer('works', 'owing')
if reply[1] == 'works' and not run.stalled and run.due <= now and now - seen_at >= stalled_after then
  if has_nested() and not waits_for_jobs then
    reply[1] = 'quiet'
  else
    call('HSET', head, 'stalled', seen_at)
    reply[1] = 'stalled'
  end
end
return reply
