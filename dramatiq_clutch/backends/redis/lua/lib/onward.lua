-- Sends the message of a duty in the very step that causes the duty. Where that fails, it is owed.
-- USES outbox
-- KEYS broker
-- ARGV onward_duty, message...
-- `enqueue` is the broker's own script as a function, which stands before this; `message` is what it takes.
go_onward = function(id)
  if id ~= onward_duty then return false end
  has_gone = pcall(enqueue, {broker}, message)
  return has_gone
end
