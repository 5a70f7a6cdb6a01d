-- A bunch of messages, which a worker fetches in a step that acks a message of their queue anyway.
-- KEYS broker?
-- ARGV queue, first, looks number
-- `queue` is the key of the queue's list, or ''. `first` are the ids that were first in it when it was last looked at,
-- with blanks between them; `looks` is how many of them are wanted this time, at most.

-- What is first in the queue now, in one string; and what was fetched. `fetch` is what the broker's own script, which
-- is `dispatch`, takes to fetch as many messages as `first` has. It is called if these still are the first ones.
local function bunch_with(fetch)
  local bunch = {}
  if #fetch > 0 then
    local now = redis.call('LRANGE', queue, 0, tonumber(fetch[#fetch]) - 1)
    if table.concat(now, ' ') == first then bunch = dispatch({broker}, fetch) end
  end
  table.insert(bunch, 1, table.concat(redis.call('LRANGE', queue, 0, looks - 1), ' '))
  return bunch
end
