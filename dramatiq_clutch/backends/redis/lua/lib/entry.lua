-- Put a run where it belongs in the register, and take it out.
-- KEYS entries, places, ended, stopped
-- An entry is 'GENERATION TURNS CREATED ENDED STATE LABELS'. CREATED is in UNIX ms, of 14 digits; so is ENDED, or '' as
-- long as the run is at work. Each of the LABELS is a digest. The members of `places` all have the score 0, so they
-- are in the order of their bytes: a label, CREATED, the run's id. `ended` has the runs that have succeeded, and
-- `stopped` those that have failed or were cancelled, by when that was.
local call = redis.call
local ENTRY = '^(%w*) (%d+) (%d+) (%d*) (%a*) (%x*)$'

local function places_of(id, created, labels, score)
  local found = {}
  for label in string.gmatch(labels, string.rep('%x', LABEL)) do
    found[#found + 1] = score
    found[#found + 1] = label .. created .. id
  end
  return found
end

local function take_out(id)
  local _, _, created, _, _, labels = string.match(call('HGET', entries, id) or '', ENTRY)
  if labels then call('ZREM', places, unpack(places_of(id, created, labels))) end
  call('ZREM', ended, id)
  call('ZREM', stopped, id)
  call('HDEL', entries, id)
end

-- Put a run in the place of what is known of it. Without labels it is only taken out.
local function put(id, entry)
  local _, _, created, at, state, labels = string.match(entry, ENTRY)
  take_out(id)
  if labels == '' then return end
  call('ZADD', places, unpack(places_of(id, created, labels, 0)))
  if at ~= '' then call('ZADD', state == 'succeeded' and ended or stopped, at, id) end
  call('HSET', entries, id, entry)
end

-- Whether an entry may take the place of the known one: it is of the same run and no older; or it is of another run
-- that has the id, which began later, or is known to have followed the generation `instead`.
local function may_follow(known, entry, instead)
  local its, its_turns, its_created = string.match(known, ENTRY)
  local generation, turns, created = string.match(entry, ENTRY)
  if its == generation then return tonumber(turns) >= tonumber(its_turns) end
  return not its or its == instead or created >= its_created
end
