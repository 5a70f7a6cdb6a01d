-- A bunch of messages, which a worker fetches in a step that acks a message of their queue anyway.
-- KEYS broker?
-- ARGV queue, first, looks number
-- `queue` is the key of the queue's list, or ''. `first` are the ids that were first in it when it was last looked at,
-- with blanks between them; `looks` is how many of them are wanted this time, at most.

-- Fetch a bunch, and return what has come of it, each part in a line: what is first in the queue now; the lengths of
-- the messages that were fetched, '-' for one that isn't there; and these messages, one behind the other, to the end.
-- It is a single string, because a client takes much longer to read several. `fetch` is what the broker's own script,
-- which is `dispatch`, takes to fetch as many messages as `first` has. It is called if these still are the first ones.
local function bunch_with(fetch)
  local found, lengths = {}, {}
  if #fetch > 0 then
    local now = redis.call('LRANGE', queue, 0, tonumber(fetch[#fetch]) - 1)
    if table.concat(now, ' ') == first then found = dispatch({broker}, fetch) end
  end
  for index = 1, #found do
    lengths[index] = found[index] and #found[index] or '-'
    found[index] = found[index] or ''
  end
  local next = table.concat(redis.call('LRANGE', queue, 0, looks - 1), ' ')
  return table.concat({next, table.concat(lengths, ' '), table.concat(found)}, '\n')
end
