-- What several transitions share. Every script that begins with it has
--   KEYS  head, plan, outbox, bell, mark, then marks, standing, details of the stage before, of this one, of the next
--   ARGV  the stage those keys are of, now (ms), owner, lease, lease_ms, and then its own
-- and returns {word, duty, duty, ...}, a duty being {id, lease, cursor, again, line, snapshot}.
--
-- marks    hash: member -> 'S' .. result, or '' for one that stands otherwise; the field '' tells a live key
-- standing sorted set: members that have had an attempt and not succeeded, by kind and place
-- details  hash: member -> epoch, attempt and failure of those
local head, plan, outbox, bell, mark = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local before = {marks = KEYS[6], standing = KEYS[7], details = KEYS[8]}
local here = {marks = KEYS[9], standing = KEYS[10], details = KEYS[11]}
local after = {marks = KEYS[12], standing = KEYS[13], details = KEYS[14]}
local stage, now, owner = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local lease, lease_ms = ARGV[4], tonumber(ARGV[5])

local ATTEMPTED, FAILING, DEAD = 1, 2, 3
local SPAN = 2 ^ 40 -- a member's score is its kind * SPAN + its index, so that each kind is a range, in order
local MOST_FAILURES = 100
local A_DAY = 86400000

local call = redis.call
local fields = call('HMGET', head, 'state', 'stage', 'stages', 'ttl', 'result_ttl', 'events', 'alarmed', 'error',
  's' .. stage)
local run = {
  state = fields[1], stage = tonumber(fields[2] or -1), stages = tonumber(fields[3] or 0), ttl = fields[4],
  result_ttl = fields[5], events = fields[6] or '', alarmed = fields[7] == '1', error = fields[8] or '',
  line = fields[9] or '',
}

local function total_of(line)
  return tonumber(string.match(line, '^%d+ (%d+) '))
end

local function set(field, value)
  run[field] = value
  call('HSET', head, field, value)
end

local function count(kind)
  return call('ZCOUNT', here.standing, kind * SPAN, (kind + 1) * SPAN - 1)
end

local function touch()
  call('HSET', head, 'updated', now)
  for index = 1, 14 do
    if index ~= 5 then call('PEXPIRE', KEYS[index], run.ttl) end
  end
end

-- How the run stands: its fields but the opaque spec, the counts of its present stage, its first failures.
local function snapshot()
  local all, shown = call('HGETALL', head), {}
  for index = 1, #all, 2 do
    if all[index] ~= 'spec' then shown[all[index]] = all[index + 1] end
  end
  local failures = {}
  for _, member in ipairs(call('ZRANGEBYSCORE', here.standing, FAILING * SPAN, '+inf', 'LIMIT', 0, MOST_FAILURES)) do
    local details = call('HGET', here.details, member) or '0 0 '
    failures[#failures + 1] = {member, string.match(details, '^%-?%d+ %-?%d+ (.*)$')}
  end
  local marks = math.max(call('HLEN', here.marks) - 1, 0)
  local counts = {marks = marks, attempted = count(ATTEMPTED), failing = count(FAILING), dead = count(DEAD)}
  return cjson.encode({head = shown, counts = counts, failures = failures})
end

local function owe(id, with_snapshot)
  local seq = call('HINCRBY', head, 'seq', 1)
  local duty = {seq = seq, owner = owner, due = 0, lease = '', cursor = 0}
  if with_snapshot then
    id = id .. ':' .. seq
    duty.snapshot = snapshot()
  end
  if call('HSETNX', outbox, id, cjson.encode(duty)) == 1 then call('PEXPIRE', outbox, run.ttl) end
end

local function owe_callback(event)
  if string.find(run.events, event, 1, true) then owe(event .. ':' .. stage, true) end
end

local function owe_stage(index, line)
  local total = total_of(line)
  if total and total > 0 then
    owe('send:' .. index .. ':0:' .. total)
  else
    owe('open:' .. index)
  end
end

local function alarm(on)
  run.alarmed = on
  call('HSET', head, 'alarmed', on and '1' or '0')
end

local function rest(state)
  set('state', state)
  call('DEL', bell)
  call('RPUSH', bell, state)
  call('PEXPIRE', bell, run.ttl)
end

local function complete()
  call('UNLINK', before.marks, before.standing, before.details)
  if stage + 1 == run.stages then return rest('succeeded') end
  set('stage', stage + 1)
  alarm(false)
  call('HSET', after.marks, '', '')
  call('PEXPIRE', after.marks, run.ttl)
  owe_stage(stage + 1, call('HGET', head, 's' .. (stage + 1)))
end

-- What is owed is a function of the state, so this may be called at any time, by anybody, and as often as wanted.
local function look()
  if run.state == 'succeeded' or run.error ~= '' or run.stage ~= stage then return end
  local total, fields_there = total_of(run.line), call('HLEN', here.marks)
  if not total or fields_there == 0 then return end -- not opened yet; expired: missing state releases nothing
  local marks, troubled, failing, dead = fields_there - 1, call('ZCARD', here.standing), 0, 0
  if troubled > 0 then failing, dead = count(FAILING), count(DEAD) end
  if marks - troubled == total then
    return complete()
  elseif marks - troubled + dead == total then
    if run.state ~= 'failed' then rest('failed') end
  elseif run.state == 'failed' then -- put back by hand, a dead member works again
    set('state', 'running')
    alarm(false)
    call('DEL', bell)
  end
  if failing + dead > 0 and marks >= total and not run.alarmed then
    alarm(true)
    owe_callback('on_failure')
  end
end

local function take()
  local all, duties = call('HGETALL', outbox), {}
  for index = 1, #all, 2 do
    local id, duty = all[index], cjson.decode(all[index + 1])
    if duty.owner == owner or duty.due <= now then
      local again = duty.lease ~= '' and '1' or '0'
      duty.due, duty.lease = now + lease_ms, lease
      call('HSET', outbox, id, cjson.encode(duty))
      local of = string.match(id, '^%a[%a_]*:(%d+)')
      local line = call('HGET', head, 's' .. of) or ''
      duties[#duties + 1] = {seq = duty.seq, reply = {id, lease, duty.cursor, again, line, duty.snapshot or ''}}
    end
  end
  table.sort(duties, function(one, other) return one.seq < other.seq end)
  for index, duty in ipairs(duties) do duties[index] = duty.reply end
  return duties
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
  return duty and duty.lease == lease and duty or nil
end

-- Once a succeeded run owes nothing, only its status and result stay, and a mark by which late duplicates are known.
local function clean_up()
  if run.state ~= 'succeeded' or call('HLEN', outbox) > 0 then return end
  call('SET', mark, '', 'PX', A_DAY)
  call('UNLINK', plan, outbox, here.standing, here.details)
  call('HDEL', head, 'spec')
  for _, key in ipairs({head, bell, here.marks}) do call('PEXPIRE', key, run.result_ttl) end
end
