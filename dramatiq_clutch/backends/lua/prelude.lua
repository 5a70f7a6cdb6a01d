-- What several transitions share. Every script that begins with it has
--   KEYS  head, plan, outbox, bell, mark, then of the stage before: marks, standing, details, nests; of this one the same
--         and halted; of the next: marks
--   ARGV  the stage those keys are of, now (ms), owner, lease, lease_ms, and then its own
-- and returns {word, duty, duty, ...}, a duty being {id, lease, cursor, again, line, snapshot}, and for a small `send`
-- what it needs: spec, {row...}, {line of the stage before, what its only member has left}, or {}; and what comes next,
-- where one job follows another: {line, row, birth}, or {}.
--
-- marks    hash: member -> 'S' .. result; 'N' for one whose job has nested runs; 'R' for a run, '' for a job that has
--          had an attempt. The field '' tells a live key from one that has expired
-- standing sorted set: members that have had an attempt and not succeeded, by kind and place
-- details  hash: member -> epoch, attempt and failure of those (of an open one: the epoch of its retry)
-- nests    hash: member -> plan of the runs that its job has nested
-- halted   the marks of a cancelled run: what has no live key can't count
local head, plan, outbox, bell, mark = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local before = {marks = KEYS[6], standing = KEYS[7], details = KEYS[8], nests = KEYS[9]}
local here = {marks = KEYS[10], standing = KEYS[11], details = KEYS[12], nests = KEYS[13], halted = KEYS[14]}
local after = {marks = KEYS[15]}
local stage, now, owner = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lease, lease_ms = ARGV[4], tonumber(ARGV[5])

local OPEN, ATTEMPTED, FAILING, DEAD = 0, 1, 2, 3
local SPAN = 2 ^ 40 -- a member's score is its kind * SPAN + its index, so that each kind is a range, in order
local HALF = SPAN / 2 -- added for those that an earlier retry of a stage with a limit has sent
local MOST_FAILURES = 100
local A_DAY = 86400000
local FEW = 10 -- so many members come along with the duty to send them
local LITTLE = 10000 -- and a result of so many bytes

local call = redis.call
local fields = call('HMGET', head, 'state', 'stage', 'stages', 'ttl', 'result_ttl', 'events', 'alarmed', 'mourned',
  'error', 'epoch', 'told', 'claim', 's' .. stage, 'share', 'sent', 'again', 's' .. (stage + 1), 's' .. (stage + 2),
  'created', 'token')
local run = {
  state = fields[1], stage = tonumber(fields[2] or -1), stages = tonumber(fields[3] or 0), ttl = fields[4],
  result_ttl = fields[5], events = fields[6] or '', alarmed = fields[7] == '1', mourned = fields[8] == '1',
  error = fields[9] or '', epoch = tonumber(fields[10] or 0), told = fields[11] or '', claim = fields[12] or '',
  line = fields[13] or '', share = tonumber(fields[14] or 0), sent = tonumber(fields[15] or 0), again = fields[16] or '',
  later = {[stage + 1] = fields[17] or nil, [stage + 2] = fields[18] or nil},
  birth = (fields[19] or '') .. ' ' .. (fields[20] or ''), -- tells it from an earlier one of its name
}

local function line_of(index)
  if index == stage and run.line ~= '' then return run.line end
  return run.later[index] or call('HGET', head, 's' .. index) or ''
end

local function total_of(line)
  return tonumber(string.match(line, '^%d+ (%d+) '))
end

local function has_flag(letter, line)
  return string.find(line or run.line, '^%d+ %S+ %a*' .. letter) ~= nil
end

local function limit_of(line)
  return tonumber(string.match(line, '^%d+ %S+ %S+ (%d+)$'))
end

local function has_nested()
  return has_flag('r') or call('EXISTS', here.nests) == 1
end

local function set(field, value)
  run[field] = value
  if type(value) == 'boolean' then value = value and '1' or '0' end
  call('HSET', head, field, value)
end

local function range_of(kind)
  return kind * SPAN, (kind + 1) * SPAN - 1
end

local function count(kind)
  return call('ZCOUNT', here.standing, range_of(kind))
end

local function stand(member, kind)
  call('ZADD', here.standing, kind * SPAN + tonumber(member), member)
end

local function update()
  call('HSET', head, 'updated', now)
end

local function touch()
  update()
  for index = 1, 15 do
    if index ~= 5 then call('PEXPIRE', KEYS[index], run.ttl) end
  end
end

-- How the run stands: its fields but the opaque spec, the counts of its present stage, its first failures.
local function snapshot()
  local all, shown = call('HGETALL', head), {}
  for index = 1, #all, 2 do
    if all[index] ~= 'spec' then shown[all[index]] = all[index + 1] end
  end
  if run.stage ~= stage then -- a stage that has just been released
    return cjson.encode({
      head = shown, counts = {marks = 0, open = 0, attempted = 0, failing = 0, dead = 0}, failures = {},
    })
  end
  local failures = {}
  for _, member in ipairs(call('ZRANGEBYSCORE', here.standing, FAILING * SPAN, '+inf', 'LIMIT', 0, MOST_FAILURES)) do
    local details = call('HGET', here.details, member) or '0 0 '
    failures[#failures + 1] = {member, string.match(details, '^%-?%d+ %-?%d+ (.*)$')}
  end
  local marks = math.max(call('HLEN', run.state == 'cancelled' and here.halted or here.marks) - 1, 0)
  local counts = {
    marks = marks, open = count(OPEN), attempted = count(ATTEMPTED), failing = count(FAILING), dead = count(DEAD),
  }
  return cjson.encode({head = shown, counts = counts, failures = failures})
end

-- The snapshot that goes with a duty, of this moment.
local function moment()
  update()
  return snapshot()
end

local given = {} -- what this call owes itself: it has it from the start
local go_onward -- does a duty in this very call, if it can

local function owe(id, shown, whose)
  if go_onward and go_onward(id) then return end
  local duty = {seq = call('HINCRBY', head, 'seq', 1), owner = whose or owner, due = now + lease_ms,
    lease = whose and '' or lease, cursor = 0, snapshot = shown}
  if call('HSETNX', outbox, id, cjson.encode(duty)) == 1 then
    call('PEXPIRE', outbox, run.ttl)
    given[id] = not whose
  end
end

-- Members to send. Many are shared out: the first of them own what follows, and do it as soon as they are at work.
local function owe_send(index, line, from, to)
  local lead = math.ceil(run.share * 2 / 5)
  if to - from <= 2 * run.share or has_flag('r', line) then return owe('send:' .. index .. ':' .. from .. ':' .. to) end
  local next, size = from + lead, math.max(run.share, math.ceil((to - from - lead) / lead))
  owe('send:' .. index .. ':' .. from .. ':' .. next .. ':' .. math.ceil((to - next) / size))
  while next < to do
    owe('send:' .. index .. ':' .. next .. ':' .. math.min(next + size, to), nil, index .. '.' .. from)
    next, from = next + size, from + 1
  end
end

local function owe_callback(event)
  if string.find(run.events, event, 1, true) then
    owe(event .. ':' .. stage .. ':' .. call('HINCRBY', head, 'fired', 1), moment())
  end
end

local function owe_stage(index, line)
  local total, limit = total_of(line), limit_of(line)
  if not total or total == 0 then return owe('open:' .. index) end
  if limit then
    total = math.min(total, limit)
    set('sent', total)
    set('again', '')
  end
  owe_send(index, line, 0, total)
end

-- Nested runs that have had an attempt keep their place until they settle.
local function count_held()
  if not has_nested() then return 0 end
  local held = 0
  for _, member in ipairs(call('ZRANGEBYSCORE', here.standing, ATTEMPTED * SPAN, DEAD * SPAN - 1)) do
    local mark = call('HGET', here.marks, member)
    if mark == 'R' or mark == 'N' then held = held + 1 end
  end
  return held
end

-- A stage with a limit: let as many members follow as have given up their places. `again` is the first member that a
-- retry has still to look at; those behind it don't count, unless an earlier retry has sent them.
local function fill(total, marks)
  local limit = limit_of(run.line)
  if not limit then return end
  local from, open = tonumber(run.again), OPEN * SPAN
  local waiting = count(OPEN) - (from and call('ZCOUNT', here.standing, open + from, open + HALF - 1) or 0)
  local room = limit - (run.sent - marks) - waiting - count_held()
  if from then
    local most = math.max(room, 0)
    local next = call('ZRANGEBYSCORE', here.standing, open + from, open + HALF - 1, 'LIMIT', 0, most + 1)
    local to = tonumber(next[most + 1] or run.sent)
    if to > from then
      owe('retry:' .. stage .. ':' .. from .. ':' .. to .. ':' .. run.epoch)
      set('again', to < run.sent and to or '')
    end
    room = room - #next
  end
  if room > 0 and run.sent < total then
    local to = math.min(total, run.sent + room)
    owe_send(stage, run.line, run.sent, to)
    set('sent', to)
  end
end

-- Members to send again: all of them, or as the limit allows. Of a cancelled run, those that have had no attempt have
-- their places, and are sent at once.
local function owe_again(kind)
  local limit = limit_of(run.line)
  if limit then set('again', 0) end
  if not limit or kind == 'resume' then
    owe(kind .. ':' .. stage .. ':0:' .. (limit and run.sent or total_of(run.line)) .. ':' .. run.epoch)
  end
end

-- Fire a callback that a stage has once.
local function ring(flag, event)
  if run[flag] then return end
  set(flag, true)
  owe_callback(event)
end

local function rest(state)
  set('state', state)
  call('DEL', bell)
  call('RPUSH', bell, state)
  call('PEXPIRE', bell, run.ttl)
  if state == 'succeeded' then
    owe_callback('completion')
    owe_callback('on_success')
  end
  owe_callback('on_finish')
end

-- A failed run works again. What is dead already has been mourned.
local function heal(dead)
  set('state', 'running')
  set('alarmed', false)
  set('mourned', dead > 0)
  call('DEL', bell)
end

local function complete(dead)
  call('UNLINK', before.marks, before.standing, before.details, here.nests)
  if dead > 0 then call('HSET', head, 'd' .. stage, dead) end
  if stage + 1 == run.stages then return rest('succeeded') end
  if run.state == 'failed' then heal(0) end
  run.stage, run.alarmed, run.mourned = stage + 1, false, false
  call('HSET', head, 'stage', stage + 1, 'alarmed', '0', 'mourned', '0')
  call('HSET', after.marks, '', '')
  call('PEXPIRE', after.marks, run.ttl)
  owe_stage(stage + 1, line_of(stage + 1))
end

local function judge()
  local total, there = total_of(run.line), call('HLEN', here.marks)
  if not total or there == 0 then return end -- not opened yet; expired: missing state releases nothing
  local marks, troubled, open, failing, dead = there - 1, call('ZCARD', here.standing), 0, 0, 0
  if troubled > 0 then open, failing, dead = count(OPEN), count(FAILING), count(DEAD) end
  local succeeded = marks - troubled
  local settled = succeeded + dead == total
  if run.state == 'failed' and not settled then heal(dead) end
  if failing + dead > 0 and marks - open >= total then ring('alarmed', 'on_failure') end
  if dead > 0 then ring('mourned', 'on_death') end
  if succeeded == total or (settled and has_flag('t')) then
    complete(dead)
  elseif settled and run.state ~= 'failed' then
    rest('failed')
  else
    fill(total, marks)
  end
end

-- A nested run's word to its parent, whenever it changes; `again`: although it hasn't. A newer one takes the place of one
-- that is not yet told.
local function tell(again)
  if run.told == '' then return end
  local word = 'open'
  if run.state == 'succeeded' then
    word = 'succeeded'
  elseif run.state ~= 'running' then
    word = 'dead'
  elseif run.alarmed and count(FAILING) + count(DEAD) > 0 then
    word = 'failing'
  elseif run.told == 'failing' or run.told == 'attempted' then
    word = 'attempted'
  end
  if word == run.told and not again then return end
  set('told', word)
  local revision = call('HINCRBY', head, 'rev', 1)
  call('HDEL', outbox, 'tell:' .. (revision - 1))
  owe('tell:' .. revision, moment())
end

-- What is owed is a function of the state, so this may be called at any time, by anybody, and as often as wanted.
local function look(again)
  if run.stage ~= stage then return end -- the keys are of another stage
  local works = run.state == 'running' or run.state == 'failed'
  if works and run.error == '' then judge() end
  tell(again)
end

-- The stage that follows, if it is one job. The first stage asks for none: whoever sends it seldom does its job.
local function next_of(index)
  local line = index > 0 and index + 1 < run.stages and line_of(index + 1) or ''
  local offset, total = string.match(line, '^(%d+) (%d+) ')
  if total ~= '1' or has_flag('m', line) or has_flag('r', line) then return {} end
  local row = call('LRANGE', plan, offset, offset)[1]
  return row and #row <= LITTLE and {line, row, run.birth} or {}
end

-- What a duty to send a few members needs: the spec, their rows, and the result of a stage of one before them; and
-- what follows them.
local function needs(id, line)
  local index, from, to = string.match(id, '^send:(%d+):(%d+):(%d+)')
  local offset = string.match(line, '^%d+')
  if not offset or to - from > FEW or has_flag('m', line) then return '', {}, {}, {} end
  index = tonumber(index)
  local rows, previous = call('LRANGE', plan, offset + from, offset + to - 1), {}
  local marks = ({[stage] = before.marks, [stage + 1] = here.marks})[index]
  if has_flag('i', line) and index > 0 and index == run.stage and marks then
    local source = line_of(index - 1)
    if total_of(source) == 1 and call('HSTRLEN', marks, '0') <= LITTLE then
      previous = {source, call('HGET', marks, '0') or ''}
    end
  end
  return call('HGET', head, 'spec'), rows, previous, total_of(line) == 1 and next_of(index) or {}
end

-- Whether a duty has nothing to do any more: it would send or start what its stage needed, and that is over. Somebody
-- has done it and not confirmed it. What it would read is perhaps gone.
local MOVES = {send = true, open = true, start = true, retry = true, resume = true, resend = true}

local function is_moot(id)
  local kind, index = string.match(id, '^(%a+):(%d+)')
  return MOVES[kind] and (tonumber(index) < run.stage or run.state == 'succeeded')
end

-- The duties that are the caller's now, in the order in which they came up; and whether anything is owed at all.
local function take()
  local all, duties, owing = call('HGETALL', outbox), {}, false
  for index = 1, #all, 2 do
    local id, duty = all[index], cjson.decode(all[index + 1])
    local moot = is_moot(id)
    owing = owing or not (moot or duty.parked)
    if moot then
      call('HDEL', outbox, id)
    elseif given[id] or not duty.parked and (duty.owner == owner or duty.due <= now) then
      local again = not given[id] and duty.lease ~= '' and '1' or '0'
      if not given[id] then
        duty.due, duty.lease = now + lease_ms, lease
        call('HSET', outbox, id, cjson.encode(duty))
      end
      local line = line_of(tonumber(string.match(id, '^%a[%a_]*:(%d+)')))
      local reply = {id, lease, duty.cursor, again, line, duty.snapshot or ''}
      if string.sub(id, 1, 4) == 'send' then reply[7], reply[8], reply[9], reply[10] = needs(id, line) end
      duties[#duties + 1] = {seq = duty.seq, reply = reply}
    end
  end
  table.sort(duties, function(one, other) return one.seq < other.seq end)
  for index, duty in ipairs(duties) do duties[index] = duty.reply end
  return duties, owing
end

local function answer(word)
  local reply = take()
  table.insert(reply, 1, word)
  return reply
end

-- The duty, if the caller holds it.
local function held(id)
  local stored = call('HGET', outbox, id)
  local duty = stored and cjson.decode(stored)
  return duty and not duty.parked and duty.lease == lease and duty or nil
end

-- Once a succeeded run owes nothing, only its status and result stay, and a mark by which late duplicates are known.
local function clean_up()
  if run.state ~= 'succeeded' then return end
  for _, id in ipairs(call('HKEYS', outbox)) do
    if is_moot(id) then call('HDEL', outbox, id) end
  end
  if call('EXISTS', outbox) == 1 then return end
  call('SET', mark, run.claim, 'PX', run.claim ~= '' and run.ttl or A_DAY)
  call('UNLINK', plan, outbox)
  call('HDEL', head, 'spec')
  for _, key in ipairs({head, bell, here.marks, here.standing, here.details}) do call('PEXPIRE', key, run.result_ttl) end
end
