-- Tell which members of a stage were never sent, be it the present stage, one that is over, or one to come.
-- USES members
-- KEYS outbox
local over = run.state == 'succeeded' or stage < run.stage
local halts = stage == run.stage and (run.state == 'cancelled' or run.broken) -- nothing of it is sent before a retry

-- The ranges {from, to} of these members: what lies beyond the limit, and what duties have still to send.
local function unsent_ranges(total)
  if halts or stage > run.stage then return {{0, total}} end
  local ranges = {limit_of(run.line) and {run.sent, total} or nil}
  for _, id in ipairs(over and {} or call('HKEYS', outbox)) do
    local kind, index, from, to = string.match(id, '^(%a+):(%d+):(%d+):(%d+)')
    if (kind == 'send' or kind == 'resume') and tonumber(index) == stage then
      local cursor = cjson.decode(call('HGET', outbox, id)).cursor
      ranges[#ranges + 1] = {math.max(tonumber(from), cursor), tonumber(to)}
    end
  end
  return ranges
end

-- The first member from `at` on that is in one of these ranges; nothing if there is none.
local function next_in(ranges, at)
  local first
  for _, range in ipairs(ranges) do
    local from = math.max(range[1], at)
    if range[2] > from then first = math.min(first or from, from) end
  end
  return first
end
