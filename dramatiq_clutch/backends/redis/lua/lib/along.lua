-- What the broker does in the very step that records how a job ended: it sends the message of the duty that this causes,
-- fetches it for the sender's own worker, and acks the message of the job that has ended.
-- USES outbox
-- KEYS broker?
-- ARGV onward_duty, onward_queue, onward_id, enqueues number, fetches number, along...
-- `dispatch` is the broker's own script as a function, or nil where the broker is on another server. `along` is what it
-- takes to enqueue the message (the first `enqueues` of them), to fetch it (`fetches`), and to ack (the rest); with none
-- it isn't to do so. `onward_queue` is the key of the queue's list, and `onward_id` what stands there for the message:
-- it is fetched only if it is the first, so that nothing else has to wait for longer.
local has_kept, has_acked = false, false

local function dispatch_with(from, to)
  local arguments = {}
  for index = from, to do arguments[#arguments + 1] = along[index] end
  return #arguments > 0 and pcall(dispatch, {broker}, arguments)
end

-- Where it fails, the duty is owed.
go_onward = function(id)
  if id ~= onward_duty then return false end
  has_gone = dispatch_with(1, enqueues)
  if has_gone and fetches > 0 and call('LINDEX', onward_queue, 0) == onward_id then
    has_kept = dispatch_with(enqueues + 1, enqueues + fetches)
  end
  return has_gone
end

-- The reply, with what the broker has done as its third part: words, and what comes next. The message that has ended is
-- acked if its worker has nothing left to do for it.
local function along_with(reply)
  if not dispatch then return reply end
  if #reply == 2 and reply[2] == '' then has_acked = dispatch_with(enqueues + fetches + 1, #along) end
  local did = (has_gone and 'sent ' or '') .. (has_kept and 'kept ' or '') .. (has_acked and 'acked' or '')
  table.insert(reply, 3, {did, has_gone and next_of(run.stage) or {}})
  return reply
end
