-- Renew the expiry of the run's keys, and delete what a succeeded run doesn't need.
-- USES outbox, history
-- KEYS plan, callbacks, tombstone, failures, tally
-- KEYS before.members, before.standing, before.dead, before.attempts, before.nests, before.times
-- KEYS here.members, here.standing, here.dead, here.attempts, here.nests, here.halted, here.items, here.due, here.times
-- KEYS after.members

-- Renew the expiry of all the run's keys.
local function touch()
  update()
  local ttl = lifetime()
  for _, key in ipairs({head, plan, outbox, callbacks}) do call('PEXPIRE', key, ttl) end
  for _, key in ipairs(run.tallied and {failures, tally} or {}) do call('PEXPIRE', key, ttl) end
  for _, keys in ipairs({before, here, after}) do
    for name, key in pairs(keys) do
      if name ~= 'times' or run.timed then call('PEXPIRE', key, ttl) end
    end
  end
end

-- Once a succeeded run owes nothing, only its status and result stay, and a tombstone by which late duplicates of its
-- messages are recognised; the status may stay for longer (`history`). A nested run has told its parent by then, so
-- only its tombstone stays. While callbacks haven't ended, the status stays in any case, because they may read it. A
-- run that keeps its results keeps those of all stages, and the plan.
local function clean_up()
  if run.state ~= 'succeeded' then return end
  for _, id in ipairs(call('HKEYS', outbox)) do
    if is_moot(id) then call('HDEL', outbox, id) end
  end
  if call('EXISTS', outbox) == 1 then return end
  local whose = generation .. ' ' .. run.claim .. ' ' .. run.app
  local claims = run.claim ~= '' and not run.frees
  call('SET', tombstone, (run.frees and 'free ' or 'done ') .. whose, 'PX', claims and run.ttl or A_DAY)
  local called = run.events ~= '' and call('EXISTS', callbacks) == 1
  if run.told ~= '' and not called then
    call('UNLINK', head, plan, failures, tally, here.members, here.standing, here.dead, here.attempts, here.nests,
      here.times, before.nests)
    return
  end
  call('UNLINK', here.nests, before.nests)
  if not run.keeps then
    call('UNLINK', plan)
    call('HDEL', head, 'spec')
  end
  local ttl = called and lifetime() or run.result_ttl
  if not (called or run.keeps) then shrink() end
  local results = {here.members, plan, before.members, before.standing, before.dead, before.attempts}
  for index = 1, run.keeps and #results or 1 do call('PEXPIRE', results[index], ttl) end
  for _, key in ipairs(run.timed and {here.times, before.times} or {}) do call('PEXPIRE', key, ttl) end
  ttl = math.max(ttl, history())
  for _, key in ipairs({head, here.standing, here.dead, here.attempts}) do call('PEXPIRE', key, ttl) end
  for _, key in ipairs(run.tallied and {failures, tally} or {}) do call('PEXPIRE', key, ttl) end
end
