-- Keep a stage from going on, because the run comes to rest while members are unsettled, or enough have succeeded.
-- USES release, nested

-- Drop the duties that would send or start anything.
local function drop_moves()
  for _, id in ipairs(call('HKEYS', outbox)) do
    if MOVES[string.match(id, '^%a+')] then call('HDEL', outbox, id) end
  end
  call('HSET', head, 'retrying', '')
end

-- For how many members of the stage nested runs may have to be cancelled: 0 if there are none.
local function haltable()
  return has_nested() and sent_so_far() or 0
end
