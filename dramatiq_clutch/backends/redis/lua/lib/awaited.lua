-- Whether a run at rest owes something that others wait for: a callback, a word to its parent, or that its nested runs
-- are cancelled.
-- USES outbox
local function is_awaited(owes)
  for _, id in ipairs(call('HKEYS', owes)) do
    local parked = cjson.decode(call('HGET', owes, id)).parked
    if not (parked or MOVES[string.match(id, '^%a+')]) then return true end
  end
  return false
end
