-- Read the fields of the run as they are when the script begins, and write them.
-- KEYS head
-- ARGV stage number, now number, generation
-- `stage` is the stage whose keys the script was given. A run with another generation is a stranger: it has had this id
-- before the caller's run or after it, and is neither read nor changed.
local call, run = redis.call, {}

local function read_run()
  local found = call('HMGET', head, 'state', 'stage', 'stages', 'ttl', 'result_ttl', 'events', 'alarmed', 'mourned',
    'error', 'epoch', 'told', 'claim', 's' .. stage, 'share', 'sent', 's' .. (stage + 1), 's' .. (stage + 2), 'gen',
    'era', 'revival', 'until', 'stalled', 'retrying', 'app', 's' .. (stage - 1), 'broken', 'taken_up', 'taken_to',
    'frees', 'name', 'created', 'tallied', 'keeps', 'soonest', 'deadline', 'run_by', 'stage_by', 'turn', 't' .. stage,
    'timed')
  run.state, run.stage, run.stages = found[1], tonumber(found[2] or -1), tonumber(found[3] or 0)
  run.ttl, run.result_ttl = tonumber(found[4] or 0), found[5]
  run.events, run.alarmed, run.mourned = found[6] or '', found[7] == '1', found[8] == '1'
  run.error, run.epoch, run.told, run.claim = found[9] or '', tonumber(found[10] or 0), found[11] or '', found[12] or ''
  run.line, run.share, run.sent = found[13] or '', tonumber(found[14] or 0), tonumber(found[15] or 0)
  run.lines = {[stage - 1] = found[25] or nil, [stage + 1] = found[16] or nil, [stage + 2] = found[17] or nil}
  run.generation, run.era, run.revival = found[18] or '', tonumber(found[19] or 0), tonumber(found[20] or 0)
  run.stalled, run.retrying, run.app = found[22], found[23] or '', found[24] or ''
  run.broken, run.taken_up, run.taken_to = found[26] == '1', tonumber(found[27] or 0), tonumber(found[28] or 0)
  run.frees, run.name, run.created, run.times = found[29] == '1', found[30] or '', found[31] or '', found[39] or ''
  run.tallied, run.keeps, run.timed = found[32] == '1', found[33] == '1' and run.told == '', found[40] == '1'
  run.due = tonumber(found[21] or 0) -- until when something of it is delayed
  run.soonest, run.deadline = tonumber(found[34] or ''), tonumber(found[35] or '') -- nil where there is no deadline
  run.run_by, run.stage_by, run.turn = tonumber(found[36] or ''), tonumber(found[37] or ''), found[38] or ''
end

read_run()
local stranger = run.state and run.generation ~= generation and run.state or nil
if stranger then run.state = false end

local function set(field, value)
  run[field] = value
  if type(value) == 'boolean' then value = value and '1' or '0' end
  call('HSET', head, field, value)
end

-- Note that something has happened to the run: so it isn't stalled.
local function update()
  if not run.is_updated then call('HSET', head, 'updated', now) end
  if run.stalled then
    run.stalled = false
    call('HDEL', head, 'stalled')
  end
end

-- For how many ms from now the run's keys live: its ttl, counted from now, or from when a delayed part of it is due.
local function lifetime()
  return run.ttl + math.max(run.due - now, 0)
end

-- Note that something of the run is delayed until `due`.
local function wait_until(due)
  if due > run.due then
    run.due = due
    call('HSET', head, 'until', due)
  end
end
