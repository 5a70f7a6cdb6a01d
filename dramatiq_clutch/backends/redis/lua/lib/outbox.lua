-- Write down what the run owes. A duty is written in the transition that causes it, under the caller's lease.
-- USES run
-- KEYS outbox
-- ARGV owner, lease, lease_ms number
local own = {} -- ids of the duties that this call creates for its own caller, who has their lease from the start
local for_anybody = {} -- ids of the shares that this call creates for anybody
local woken = false -- whether this call has brought a run at rest back to work, or owes parked duties again
local tells_by = false -- whether the reply says by when somebody has to look at the run, for its deadlines' sake
local go_onward -- a function that does a duty in this same call; nil unless `lib/along` is part of the script
local has_gone = false -- whether `go_onward` has sent the duty's message

-- Write a duty down. Its owner is the caller, unless `whose` names another one. If `whose` is '', the duty is a share
-- for anybody and can be taken at once. `shown` is the snapshot that goes with it, if any.
local function owe(id, shown, whose)
  if go_onward and go_onward(id) then return end
  local duty = {
    seq = call('HINCRBY', head, 'seq', 1), owner = whose or owner, due = whose == '' and now or now + lease_ms,
    lease = whose and '' or lease, cursor = 0, snapshot = shown,
  }
  if call('HSETNX', outbox, id, cjson.encode(duty)) == 1 then
    call('PEXPIRE', outbox, lifetime())
    own[id], for_anybody[id] = not whose, whose == ''
  end
end

-- What is said of a run that rests and owes nothing. One whose id was claimed may make room for another run at any
-- time, and one that keeps its results may be done again: so it doesn't end for good, lest what works by then is taken
-- out of the index.
local function how_it_ends()
  return run.state == 'succeeded' and run.claim == '' and not run.keeps and 'ends' or 'rests'
end

-- A note; with '+' behind it if the caller has to see to it that stages that are kept, of which this script has no
-- keys, live as long as the run.
local function noted(note)
  return note .. (run.keeps and run.stage > 1 and '+' or '')
end

-- Whether a duty is moot: it would send or start members of a stage that is over. Somebody has done it without
-- confirming it, and what it would read may be gone.
local MOVES = {send = true, open = true, start = true, retry = true, resume = true, revive = true, resend = true}

local function is_moot(id)
  local kind, index = string.match(id, '^(%a+):(%d+)')
  return MOVES[kind] and (tonumber(index) < run.stage or run.state == 'succeeded')
end

-- The duty if the caller holds its lease, or nil.
local function held(id)
  local stored = call('HGET', outbox, id)
  local duty = stored and cjson.decode(stored)
  return duty and not duty.parked and duty.lease == lease and duty or nil
end

-- Whether the caller may have a duty: it owns it, or the lease has lapsed. A share for anybody is given to sweepers
-- only, because every other caller (say, a nested run that tells how it stands) keeps somebody waiting.
local function may_have(duty)
  if duty.owner == owner then return true end
  return duty.due <= now and (duty.owner ~= '' or owner == 'sweeper')
end
