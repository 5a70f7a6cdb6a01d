-- Show how members of a stage stand, each by itself.
-- USES shown
-- KEYS here.attempts, here.nests, here.due
-- ARGV wanted, start number, most number
-- `wanted` is a state under which members are shown, or ''. The members from `start` on are looked at, MANY at most,
-- until `most` of them are as wanted; those that are failing or dead are found without that.
-- returns {'there', where to go on or -1, over (1 or 0), stage line, how many are dead, spec, value and row for all of
--         them, {index, state, failure, due (UNIX ms) or '', nests (1 or 0), row, value, timing}...}; or {'unknown'}
if not run.state then return {'unknown'} end
local total = total_of(run.line) or 0
local ranges, page, next = unsent_ranges(total), {}, -1

local function show(member, state)
  local failure = failure_in(call('HGET', here.attempts, member))
  if failure == '' and over then failure = call('HGET', failures, stage .. '.' .. member) or '' end
  local row, nests = has_flag('m') and '' or row_of(member), call('HEXISTS', here.nests, member)
  local due = state == 'failing' and not halts and call('ZSCORE', here.due, member) or ''
  page[#page + 1] = {tonumber(member), state, failure, due, nests, row, item_of(member), times_of(member)}
end

-- Show members that are known to be as wanted. One more than there is room for tells where to go on.
local function show_these(members)
  for index = 1, math.min(#members, most) do
    if wanted == 'dead' or not is_at_work(members[index]) then show(members[index], wanted) end
  end
  next = tonumber(members[most + 1] or -1)
end

local function by_score(key, low, high)
  return call('ZRANGEBYSCORE', key, low + start, high, 'LIMIT', 0, most + 1)
end

local function scan()
  local at, looked, last, unsent = start, 0, total, wanted == 'unsent'
  local jumps = unsent and not over and count_waiting() == 0
  local held_back = limit_of(run.line) and stage == run.stage and not over
  if held_back and not unsent and wanted ~= '' then last = math.min(run.sent, total) end
  while #page < most and looked < MANY do
    if jumps then at = next_in(ranges, at) or last end
    if at >= last then return end
    local state = state_of(at, ranges)
    if wanted == '' or state == wanted then show(at, state) end
    at, looked = at + 1, looked + 1
  end
  if at < last then next = at end
end

if wanted == 'failing' and not over then
  local low = run.era * ERA + FAILING * SPAN
  show_these(by_score(here.standing, low, below(low + SPAN)))
elseif wanted == 'dead' and dead_from < math.huge then
  show_these(by_score(here.dead, dead_from, '+inf'))
elseif wanted == 'dead' then
  show_these(kept_dead(start))
elseif may_be(wanted) then
  scan()
end
local all = has_flag('m') and row_of(0) or ''
local spec = call('HGET', head, 'spec') or ''
return {'there', next, over and 1 or 0, run.line, count_dead(), spec, piped_value(), all, unpack(page)}
