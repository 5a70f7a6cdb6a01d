-- Fetch messages for the worker that has just sent them, as long as they are the first in their queue: nothing else has to
-- wait for longer, and no consumer has to look for them.
-- KEYS queue, broker?
-- ARGV fetches number, sent...
-- `sent` is what the broker's own script, which is `dispatch`, takes to fetch one message (as many as `fetches`), and then
-- the ids that stand in the queue's list for the messages.
-- returns how many of them the worker has now
local fetch, kept = {unpack(sent, 1, fetches)}, 0
for index = fetches + 1, #sent do
  if redis.call('LINDEX', queue, 0) ~= sent[index] then break end
  dispatch({broker}, fetch)
  kept = kept + 1
end
return kept
