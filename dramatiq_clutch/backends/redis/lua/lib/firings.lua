-- Note when callbacks were owed, when they were sent, and how they ended: for each event, of its last firing.
-- KEYS head
-- A field is '<firings of the event> <stage>:<number> <generation> <owed> <sent> <ended>...', as `stored/firings.py`
-- says. Stage and number are what the duty's id has behind the event.
local function is_callback(id)
  return string.sub(id, 1, 3) == 'on_' or string.sub(id, 1, 11) == 'completion:'
end

-- If a duty is the last firing of an event: the event, and three parts of what is noted of it. The second says when it
-- was sent, and the third how its messages have ended.
local function firing_of(id)
  if not is_callback(id) then return end
  local event, place = string.match(id, '^([^:]+):(.*)$')
  local noted_of = redis.call('HGET', head, 'fired_' .. event) or ''
  local known, its, at, ends = string.match(noted_of, '^(%d+ (%S+) %S* %S+) (%S+)(.*)$')
  if its == place then return event, known, at, ends end
end

-- An event fires: its callbacks are owed.
local function note_fired(event, id, whose, at)
  local noted = redis.call('HGET', head, 'fired_' .. event) or ''
  local words = {(string.match(noted, '^%d+') or 0) + 1, string.sub(id, #event + 2), whose, at, '-'}
  redis.call('HSET', head, 'fired_' .. event, table.concat(words, ' '))
end

-- The duty was done: its messages are sent. Where something couldn't be sent, the time begins with '!'.
local function note_sent(id, at)
  local event, known, _, ends = firing_of(id)
  if event then redis.call('HSET', head, 'fired_' .. event, known .. ' ' .. at .. ends) end
end

-- One of its messages has ended. A message that comes twice may end twice; then a success is final.
local function note_ended(id, which, how, at)
  local event, known, sent_at, ends = firing_of(id)
  if not event or string.find(ends, ' ' .. which .. 'S', 1, true) then return end
  local others = string.gsub(ends, ' ' .. which .. '%u%d+', '')
  redis.call('HSET', head, 'fired_' .. event, known .. ' ' .. sent_at .. others .. ' ' .. which .. how .. at)
end
