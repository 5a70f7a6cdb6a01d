-- Fetch messages for the worker that has just sent them, as long as they are the first in their queue: then nothing
-- else waits for longer, and no consumer has to look for them.
-- KEYS queue, broker?
-- ARGV fetches number, sent...
-- The first `fetches` of `sent` are what the broker's own script, which is `dispatch`, takes to fetch one message. Then
-- come the ids of the messages in `queue`, the queue's list.
-- returns how many of them the worker has now
local fetch, kept = {unpack(sent, 1, fetches)}, 0
for index = fetches + 1, #sent do
  if redis.call('LRANGE', queue, 0, 0)[1] ~= sent[index] then break end
  dispatch({broker}, fetch)
  kept = kept + 1
end
return kept
