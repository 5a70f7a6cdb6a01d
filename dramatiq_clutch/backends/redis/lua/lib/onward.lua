-- Send the message of a duty in the same step that causes the duty. If that fails, the duty is owed like any other.
-- USES outbox
-- KEYS broker
-- ARGV onward_duty, message...
-- `enqueue` is a function made of the broker's own script, and is put before this piece; `message` are its arguments.
go_onward = function(id)
  if id ~= onward_duty then return false end
  has_gone = pcall(enqueue, {broker}, message)
  return has_gone
end
