-- Send messages to one of the broker's queues, one after the other.
-- KEYS broker
-- ARGV common number, once number, messages...
-- `dispatch` is the broker's own script. The first `common` of `messages` are what it takes to send a message, before
-- the message's id and the message itself, which follow for each. The one at `once` is whether the queue is maintained,
-- too; that is done with the first message only.
-- returns nothing; or an error, and then those before it are sent
local send = {unpack(messages, 1, common)}
for at = common + 1, #messages, 2 do
  send[common + 1], send[common + 2] = messages[at], messages[at + 1]
  local answer = dispatch({broker}, send)
  if type(answer) == 'table' and answer.err then return answer end
  send[once] = '0'
end
