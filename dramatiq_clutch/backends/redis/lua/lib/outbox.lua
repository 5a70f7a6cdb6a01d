-- What the run owes: a duty is written down with the transition that causes it, and is the caller's from the start.
-- USES run
-- KEYS outbox
-- ARGV owner, lease, lease_ms number
local own = {} -- ids of the duties that this call creates for its own caller, who has their lease from the start
local fresh = {} -- ids of the shares that it creates for anybody
local woken = false -- whether it has brought a run that was at rest back to work, or has it owe something again
local go_onward -- does a duty in this very call, if it can
local has_gone = false -- whether it has done so

-- Write a duty down: for the caller, or for `whose` message; `anybody` may have it at once if that is ''.
local function owe(id, shown, whose)
  if go_onward and go_onward(id) then return end
  local duty = {
    seq = call('HINCRBY', head, 'seq', 1), owner = whose or owner, due = whose == '' and now or now + lease_ms,
    lease = whose and '' or lease, cursor = 0, snapshot = shown,
  }
  if call('HSETNX', outbox, id, cjson.encode(duty)) == 1 then
    call('PEXPIRE', outbox, lifetime())
    own[id], fresh[id] = not whose, whose == ''
  end
end

-- Whether a duty has nothing to do any more: it would send or start what its stage needed, and that is over. Somebody
-- has done it and not confirmed it. What it would read is perhaps gone.
local MOVES = {send = true, open = true, start = true, retry = true, resume = true, revive = true, resend = true}

local function is_moot(id)
  local kind, index = string.match(id, '^(%a+):(%d+)')
  return MOVES[kind] and (tonumber(index) < run.stage or run.state == 'succeeded')
end

-- The duty, if the caller holds it.
local function held(id)
  local stored = call('HGET', outbox, id)
  local duty = stored and cjson.decode(stored)
  return duty and not duty.parked and duty.lease == lease and duty or nil
end

-- Whether the caller may have a duty. A share for anybody is for sweepers: whoever else comes by, such as a nested run
-- that tells how it stands, has somebody waiting for it.
local function may_have(duty)
  if duty.owner == owner then return true end
  return duty.due <= now and (duty.owner ~= '' or owner == 'sweeper')
end
