-- What the broker does in the very step that records how a job ended: it sends the message of the duty that this
-- causes, fetches it for the sender's own worker, and acks the message of the job that has ended.
-- KEYS broker?
-- ARGV onward_queue, onward_id, enqueues number, fetches number, along...
-- `dispatch` is the broker's own script as a function, or nil if the broker is on another server. `along` is what it
-- takes: first to enqueue the message (`enqueues` arguments), then to fetch it (`fetches`), then to ack (the rest).
-- Where there are no arguments, it doesn't. `onward_queue` is the key of the queue's list, and `onward_id` stands in it
-- for the message, which is fetched only if it is the first in the queue: then nothing else waits for longer.

local function dispatch_with(from, to)
  local arguments = {}
  for index = from, to do arguments[#arguments + 1] = along[index] end
  return #arguments > 0 and pcall(dispatch, {broker}, arguments)
end

-- Send the duty's message. Returns whether it was sent, and whether it was fetched.
local function send_onward()
  if not dispatch_with(1, enqueues) then return false, false end
  local is_first = fetches > 0 and redis.call('LRANGE', onward_queue, 0, 0)[1] == onward_id
  return true, is_first and dispatch_with(enqueues + 1, enqueues + fetches)
end

local function ack()
  return dispatch_with(enqueues + fetches + 1, #along)
end

-- What of that was done: words of 'sent', 'kept' and 'acked'.
local function in_words(sent, kept, acked)
  return (sent and 'sent ' or '') .. (kept and 'kept ' or '') .. (acked and 'acked' or '')
end

-- The reply to a worker that is about to begin with the next job. It needn't be taken apart piece by piece, which takes
-- longest after a pause: one string of four lines, which are the reply's word and those words, the {line, row} of the
-- stage after that job's, and between these the news as JSON.
local function brief_reply(word, did, line, told, row)
  return table.concat({word .. ' ' .. did, line or '', told, row or ''}, '\n')
end
