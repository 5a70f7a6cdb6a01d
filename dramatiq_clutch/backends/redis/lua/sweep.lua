-- Do what `owed` does, for a sweeper, which also has to find out whether anything happens to the run.
-- USES take, turn, life, expiry
-- ARGV stalled_after number, waits_for_jobs flag
-- The run is stalled when nothing has happened to it for `stalled_after` ms. `waits_for_jobs` says that the caller has
-- found an unsettled member that is a job: in a stage with nested runs this script can't tell jobs from runs.
-- returns {'owing' | 'works' | 'quiet' | 'stalled' | 'rests' | 'unknown', note, duty...}; or {'moved'} if `stage` isn't
--         the present stage. 'quiet': nothing has happened for `stalled_after` ms, and the caller has to find out
--         whether the stage waits for nested runs only. 'stalled': this call has found that the run is stalled
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
tells_by = true
look()
clean_up()
say_turn() -- whoever has changed the run may have died before the register had it
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
