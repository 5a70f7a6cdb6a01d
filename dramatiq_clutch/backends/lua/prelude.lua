-- What several transitions share. Every script that begins with it has
--   KEYS  1 head, 2 plan, 3 outbox, 4 bell (the name of a channel), 5 mark, 6 callbacks;
--         of the stage before: 7 marks, 8 standing, 9 dead, 10 details;
--         of this stage: 11 marks, 12 standing, 13 dead, 14 details, 15 nests, 16 halted, 17 items;
--         of the next stage: 18 marks; then the script's own, from 19 on
--   ARGV  1 the stage those keys are of, 2 now (ms), 3 owner, 4 lease, 5 lease_ms, 6 the generation those keys are of;
--         then the script's own, from 7 on
-- and returns {word, note, duty, duty, ...}. A note is '', or 'rests': the run is at rest and owes nothing; 'wakes': it
-- was at rest and works again; 'more': there are shares that the caller hasn't been given, for anybody. A duty is {id,
-- lease, cursor, again, line, snapshot}, and for a small `send` what it needs: spec, {row...}, {line of the stage before,
-- what its only member has left}, or {}; and what comes next, where one job follows another: {line, row}, or {}.
--
-- head      hash: the run's fields
-- marks     hash: member -> 'S' .. result; 'N' for one whose job has nested runs; 'R' for a run, '' for a job that has
--           had an attempt. The field '' tells a live key from one that has expired
-- standing  sorted set: the members that have had an attempt and are unsettled, or wait to be sent again. The score is
--           era * ERA + kind * SPAN + index
-- dead      sorted set: the members that are dead, or wait to be sent again. The score is revival * SPAN + index
-- details   hash: member -> 'epoch attempt failure' of both
-- nests     hash: member -> plan of the runs that its job has nested
-- halted    `marks` of a cancelled run, renamed. `succeed` then finds no live key, so that a late success can't release
--           the stage; `retry` renames it back
-- items     list: over what a mapped stage is mapped, if that is the result of one job
-- callbacks set: the callbacks that were sent and haven't ended
--
-- A retry begins a new revival (of a cancelled run, a new era too): whatever has a lower one in its score waits to be
-- sent again. So a retry of 100,000 members is one number, and nobody has to visit them in one step.
local head, plan, outbox, bell, mark, callbacks = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local before = {marks = KEYS[7], standing = KEYS[8], dead = KEYS[9], details = KEYS[10]}
local here = {marks = KEYS[11], standing = KEYS[12], dead = KEYS[13], details = KEYS[14], nests = KEYS[15],
  halted = KEYS[16], items = KEYS[17]}
local after = {marks = KEYS[18]}
local LAST_KEY = 18
local stage, now, owner = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lease, lease_ms, generation = ARGV[4], tonumber(ARGV[5]), ARGV[6]

local OPEN, ATTEMPTED, FAILING, DEAD = 0, 1, 2, 3
local SPAN = 2 ^ 32 -- more than a stage has members
local ERA = 4 * SPAN -- and more than all kinds of them have
local MOST_FAILURES = 100
local A_DAY = 86400000
local FEW = 10 -- so many members come along with the duty to send them
local LITTLE = 10000 -- and a result of so many bytes
local MANY = 1000 -- no step works on more members than that

local call = redis.call
local fields = call('HMGET', head, 'state', 'stage', 'stages', 'ttl', 'result_ttl', 'events', 'alarmed', 'mourned',
  'error', 'epoch', 'told', 'claim', 's' .. stage, 'share', 'sent', 's' .. (stage + 1), 's' .. (stage + 2), 'gen', 'era',
  'revival', 'until', 'stalled', 'retrying', 'app')
local run = {
  state = fields[1], stage = tonumber(fields[2] or -1), stages = tonumber(fields[3] or 0), ttl = tonumber(fields[4] or 0),
  result_ttl = fields[5], events = fields[6] or '', alarmed = fields[7] == '1', mourned = fields[8] == '1',
  error = fields[9] or '', epoch = tonumber(fields[10] or 0), told = fields[11] or '', claim = fields[12] or '',
  line = fields[13] or '', share = tonumber(fields[14] or 0), sent = tonumber(fields[15] or 0),
  later = {[stage + 1] = fields[16] or nil, [stage + 2] = fields[17] or nil},
  generation = fields[18] or '', era = tonumber(fields[19] or 0), revival = tonumber(fields[20] or 0),
  due = tonumber(fields[21] or 0), -- until when something of it is delayed
  stalled = fields[22], retrying = fields[23] or '', app = fields[24] or '',
}
-- The state of another run that has this one's id now, or had it before. It is not ours to read or change.
local stranger = run.state and run.generation ~= generation and run.state or nil
if stranger then run.state = false end

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
  local limit = tonumber(string.match(line, '^%d+ %S+ %S+ (%d+)'))
  return limit ~= 0 and limit or nil
end

local function has_nested()
  return has_flag('r') or call('EXISTS', here.nests) == 1
end

local function set(field, value)
  run[field] = value
  if type(value) == 'boolean' then value = value and '1' or '0' end
  call('HSET', head, field, value)
end

-- A bound that isn't included. A score has more digits than Lua writes by itself.
local function below(score)
  return string.format('(%.0f', score)
end

-- How many members are of these kinds, in the present era.
local function count(kind, last)
  local from = run.era * ERA
  return call('ZCOUNT', here.standing, from + kind * SPAN, below(from + ((last or kind) + 1) * SPAN))
end

local function count_dead()
  return call('ZCOUNT', here.dead, run.revival * SPAN, '+inf')
end

-- How many wait to be sent again: those of an earlier revival, or era.
local function count_waiting()
  local dead = run.revival > 0 and call('ZCOUNT', here.dead, '-inf', below(run.revival * SPAN)) or 0
  return dead + (run.era > 0 and call('ZCOUNT', here.standing, '-inf', below(run.era * ERA)) or 0)
end

-- Some of those.
local function next_waiting(most)
  local found = call('ZRANGEBYSCORE', here.dead, '-inf', below(run.revival * SPAN), 'LIMIT', 0, most)
  if #found < most then
    local others = call('ZRANGEBYSCORE', here.standing, '-inf', below(run.era * ERA), 'LIMIT', 0, most - #found)
    for _, member in ipairs(others) do found[#found + 1] = member end
  end
  return found
end

local function stand(member, kind)
  if kind == DEAD then
    call('ZREM', here.standing, member)
    call('ZADD', here.dead, run.revival * SPAN + tonumber(member), member)
  else
    call('ZREM', here.dead, member)
    call('ZADD', here.standing, run.era * ERA + kind * SPAN + tonumber(member), member)
  end
end

-- The member has succeeded, and doesn't stand anywhere any more.
local function unstand(member)
  call('ZREM', here.standing, member)
  call('ZREM', here.dead, member)
  call('HDEL', here.details, member)
end

local function update()
  call('HSET', head, 'updated', now)
  if run.stalled then
    run.stalled = false
    call('HDEL', head, 'stalled')
  end
end

-- What changes whenever anything happens to the run.
local function present(updated)
  return stage .. ' ' .. call('HLEN', here.marks) .. ' ' .. updated
end

-- How long the run's keys live: from now, or from when what is delayed is due.
local function lifetime()
  return run.ttl + math.max(run.due - now, 0)
end

local function touch()
  update()
  local ttl = lifetime()
  for index = 1, LAST_KEY do
    if index ~= 4 and index ~= 5 then call('PEXPIRE', KEYS[index], ttl) end
  end
end

-- How the run stands: its fields but the opaque spec, the counts of its present stage, its first failures.
local function snapshot()
  local all, shown = call('HGETALL', head), {}
  for index = 1, #all, 2 do
    if all[index] ~= 'spec' then shown[all[index]] = all[index + 1] end
  end
  shown.state, shown.stage = run.state, tostring(run.stage) -- they may be about to be written
  if shown.stalled and shown.seen ~= present(shown.updated) then shown.stalled = nil end
  if run.stage ~= stage then -- a stage that has just been released
    return cjson.encode({
      head = shown, counts = {marks = 0, open = 0, attempted = 0, failing = 0, dead = 0}, failures = {},
    })
  end
  local failures, from = {}, run.era * ERA + FAILING * SPAN
  local troubled = call('ZRANGEBYSCORE', here.standing, from, below(from + SPAN), 'LIMIT', 0, MOST_FAILURES)
  local dead = call('ZRANGEBYSCORE', here.dead, run.revival * SPAN, '+inf', 'LIMIT', 0, MOST_FAILURES)
  for _, member in ipairs(dead) do troubled[#troubled + 1] = member end
  for index = 1, math.min(#troubled, MOST_FAILURES) do
    local details = call('HGET', here.details, troubled[index]) or '0 0 '
    failures[index] = {troubled[index], string.match(details, '^%-?%d+ %-?%d+ (.*)$')}
  end
  local marks = math.max(call('HLEN', run.state == 'cancelled' and here.halted or here.marks) - 1, 0)
  local counts = {
    marks = marks, open = count(OPEN) + count_waiting(), attempted = count(ATTEMPTED), failing = count(FAILING),
    dead = count_dead(),
  }
  return cjson.encode({head = shown, counts = counts, failures = failures})
end

-- The snapshot that goes with a duty, of this moment.
local function moment()
  update()
  return snapshot()
end

local given = {} -- ids of the duties that this call creates for its own caller, who has their lease from the start
local fresh = {} -- ids of the shares that it creates for anybody
local woken = false -- whether it has brought a run that was at rest back to work
local go_onward -- does a duty in this very call, if it can

-- Write a duty down: for the caller, or for `whose` message; `anybody` may have it at once if that is ''.
local function owe(id, shown, whose)
  if go_onward and go_onward(id) then return end
  local duty = {seq = call('HINCRBY', head, 'seq', 1), owner = whose or owner, due = whose == '' and now or now + lease_ms,
    lease = whose and '' or lease, cursor = 0, snapshot = shown}
  if call('HSETNX', outbox, id, cjson.encode(duty)) == 1 then
    call('PEXPIRE', outbox, lifetime())
    given[id], fresh[id] = not whose, whose == ''
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

-- How many nested runs one caller sees to by itself. What is to be done to more is shared out.
local function few_runs()
  return math.ceil(run.share * 2 / 25)
end

-- What is to be done to the nested runs among many members: some by the caller, and the rest by whichever worker comes.
local function owe_shares(kind, to)
  if to == 0 then return end
  local size = math.max(math.ceil(run.share * 2 / 5), math.ceil(to / 50))
  local from = math.min(few_runs(), to)
  owe(kind .. ':' .. stage .. ':0:' .. from .. ':' .. run.epoch)
  while from < to do
    owe(kind .. ':' .. stage .. ':' .. from .. ':' .. math.min(from + size, to) .. ':' .. run.epoch, nil, '')
    from = from + size
  end
end

local function owe_callback(event)
  if not string.find(run.events, event, 1, true) then return end
  local id = event .. ':' .. stage .. ':' .. call('HINCRBY', head, 'fired', 1)
  if event ~= 'completion' then -- a group's completion callbacks ask for nothing of the run
    call('SADD', callbacks, id)
    call('PEXPIRE', callbacks, lifetime())
  end
  owe(id, moment())
end

local function owe_stage(index, line)
  local total, limit = total_of(line), limit_of(line)
  if not total or total == 0 then return owe('open:' .. index) end
  if limit then
    total = math.min(total, limit)
    set('sent', total)
  end
  owe_send(index, line, 0, total)
end

-- The members that wait are to be sent again, some at a time (see `reopen`).
local function owe_retry(whose)
  set('retrying', 'retry:' .. stage .. ':' .. call('HINCRBY', head, 'retries', 1) .. ':' .. run.epoch)
  owe(run.retrying, nil, whose)
end

-- How many members of a stage with a limit may still be sent: a member has its place until it is settled.
local function room_in(limit, marks)
  return limit - (run.sent - marks) - count(OPEN, FAILING)
end

-- A stage with a limit: send as many members as there is room for; those first that wait to be sent again.
local function fill(total, marks)
  local limit = limit_of(run.line)
  if not limit then return end
  local room = room_in(limit, marks)
  if room <= 0 then return end
  local waiting = count_waiting()
  if waiting > 0 and run.retrying == '' then owe_retry() end
  room = room - waiting
  if room > 0 and run.sent < total then
    local to = math.min(total, run.sent + room)
    owe_send(stage, run.line, run.sent, to)
    set('sent', to)
  end
end

-- Fire a callback that a stage has once. What is owed is always written first: should a step break off there, for a key
-- of somebody else's is in the way, it is met again.
local function ring(flag, event)
  if run[flag] then return end
  run[flag] = true
  owe_callback(event)
  set(flag, true)
end

local function rest(state)
  run.state = state
  if state == 'succeeded' then
    owe_callback('completion')
    owe_callback('on_success')
  end
  owe_callback('on_finish')
  set('state', state)
  redis.pcall('PUBLISH', bell, state) -- a hint; without the right to give it the run comes to rest all the same
end

-- A run that has failed, or was cancelled, works again. What is dead already has been mourned.
local function heal(dead)
  if run.state ~= 'running' then woken = true end
  set('state', 'running')
  set('alarmed', false)
  set('mourned', dead > 0)
end

local function complete(dead)
  call('UNLINK', before.marks, before.standing, before.dead, before.details, here.nests, here.items)
  if dead > 0 then call('HSET', head, 'd' .. stage, dead) end
  if stage + 1 == run.stages then return rest('succeeded') end
  if run.state == 'failed' then heal(0) end
  run.stage, run.alarmed, run.mourned, run.retrying = stage + 1, false, false, ''
  run.era, run.revival = 0, 0
  call('HSET', after.marks, '', '')
  call('PEXPIRE', after.marks, lifetime())
  owe_stage(stage + 1, line_of(stage + 1))
  call('HSET', head, 'stage', stage + 1, 'alarmed', '0', 'mourned', '0', 'retrying', '', 'era', 0, 'revival', 0)
end

local function judge()
  local total, there = total_of(run.line), call('HLEN', here.marks)
  if not total or there == 0 then return end -- not opened yet; expired: missing state releases nothing
  local marks, standing, buried = there - 1, call('ZCARD', here.standing), call('ZCARD', here.dead)
  local open, failing, dead = 0, 0, 0
  if standing + buried > 0 then
    open, failing, dead = count(OPEN) + count_waiting(), count(FAILING), count_dead()
  end
  local succeeded = marks - standing - buried
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
  elseif run.alarmed and count(FAILING) + count_dead() > 0 then
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
  return row and #row <= LITTLE and {line, row} or {}
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
local MOVES = {send = true, open = true, start = true, retry = true, resume = true, revive = true, resend = true}

local function is_moot(id)
  local kind, index = string.match(id, '^(%a+):(%d+)')
  return MOVES[kind] and (tonumber(index) < run.stage or run.state == 'succeeded')
end

-- Whether the caller may have a duty. A share for anybody is for sweepers: whoever else comes by, such as a nested run
-- that tells how it stands, has somebody waiting for it.
local function may_have(duty)
  if duty.owner == owner then return true end
  return duty.due <= now and (duty.owner ~= '' or owner == 'sweeper')
end

-- The duties that are the caller's now, in the order in which they came up; whether anything is owed at all; and whether
-- there are more shares for anybody. Of these a caller gets one at a time, so that others can help.
local function take()
  local all, found, owing, more = call('HGETALL', outbox), {}, false, false
  for index = 1, #all, 2 do
    local id, duty = all[index], cjson.decode(all[index + 1])
    local moot = is_moot(id)
    owing = owing or not (moot or duty.parked)
    if moot then
      call('HDEL', outbox, id)
    elseif fresh[id] then
      more = true
    elseif given[id] or not duty.parked and may_have(duty) then
      found[#found + 1] = {id = id, duty = duty}
    end
  end
  table.sort(found, function(one, other) return one.duty.seq < other.duty.seq end)
  local duties, has_share = {}, false
  for _, one in ipairs(found) do
    local id, duty = one.id, one.duty
    if duty.owner == '' and has_share then
      more = true
    else
      has_share = has_share or duty.owner == ''
      local again = not given[id] and duty.lease ~= '' and '1' or '0'
      if not given[id] then
        duty.due, duty.lease = now + lease_ms, lease
        call('HSET', outbox, id, cjson.encode(duty))
      end
      local line = line_of(tonumber(string.match(id, '^%a[%a_]*:(%d+)')))
      local reply = {id, lease, duty.cursor, again, line, duty.snapshot or ''}
      if string.sub(id, 1, 4) == 'send' then reply[7], reply[8], reply[9], reply[10] = needs(id, line) end
      duties[#duties + 1] = reply
    end
  end
  return duties, owing, more
end

-- The script's reply. Where something is owed, `owing` may take the place of the word.
local function answer(word, owing_word)
  local reply, owing, more = take()
  local note = more and 'more' or woken and 'wakes' or ''
  if run.state ~= 'running' and not owing then note = 'rests' end
  table.insert(reply, 1, owing and owing_word or word)
  table.insert(reply, 2, note)
  return reply
end

-- The duty, if the caller holds it.
local function held(id)
  local stored = call('HGET', outbox, id)
  local duty = stored and cjson.decode(stored)
  return duty and not duty.parked and duty.lease == lease and duty or nil
end

-- What is left of a run: 'done' or 'buried', its generation, and its claim and application, or the epoch in which it
-- was buried.
local function marked()
  return string.match(call('GET', mark) or '', '^(%a+) (%w*) ?(.*)$')
end

local function is_marked()
  local what, whose = marked()
  return what ~= nil and whose == generation
end

-- Once a succeeded run owes nothing, only its status and result stay, and a mark by which late duplicates are known;
-- of a nested run, which has told its parent, no more than the mark. Callbacks that haven't ended yet keep the status.
local function clean_up()
  if run.state ~= 'succeeded' then return end
  for _, id in ipairs(call('HKEYS', outbox)) do
    if is_moot(id) then call('HDEL', outbox, id) end
  end
  if call('EXISTS', outbox) == 1 then return end
  local whose = generation .. ' ' .. run.claim .. ' ' .. run.app
  call('SET', mark, 'done ' .. whose, 'PX', run.claim ~= '' and run.ttl or A_DAY)
  local called = run.events ~= '' and call('EXISTS', callbacks) == 1
  if run.told ~= '' and not called then
    call('UNLINK', head, plan, here.marks, here.standing, here.dead, here.details)
    return
  end
  call('UNLINK', plan)
  call('HDEL', head, 'spec')
  local ttl = called and lifetime() or run.result_ttl
  for _, key in ipairs({head, here.marks, here.standing, here.dead, here.details}) do call('PEXPIRE', key, ttl) end
end
