-- Read and clear the tombstone under the run's id: 'done', the run's generation, claim and application; 'free', the
-- same, if the id is free for another run; or 'buried', the generation, and the epoch of the parent up to which the run
-- isn't to be started. And remember which generations have had the id: their late messages are known by that.
-- USES run
-- KEYS tombstone, past
local function read_tombstone()
  return string.match(call('GET', tombstone) or '', '^(%a+) (%w*) ?(.*)$')
end

-- Whether a run of this generation has had the id before, and has made room for another one.
local function is_past(whose)
  return string.find(' ' .. (call('GET', past) or ''), ' ' .. whose .. ' ', 1, true) ~= nil
end

-- Remember for `ttl` ms, at least, that a run of this generation has had the id. Only the last ones are kept.
local function remember_past(whose, ttl)
  if whose == '' then return end
  local known = call('GET', past) or ''
  if not is_past(whose) then known = string.sub(whose .. ' ' .. known, 1, MOST_PAST) end
  call('SET', past, known, 'PX', math.max(ttl, call('PTTL', past), 1))
end

-- Take the tombstone away, because a run of this generation needs its place. If it is another's, remember that one.
local function clear_tombstone()
  local what, whose = read_tombstone()
  if what and whose ~= generation then remember_past(whose, call('PTTL', tombstone)) end
  call('DEL', tombstone)
end

-- Whether the run is over, though it has no head any more.
local function is_over()
  local what, whose = read_tombstone()
  return what ~= nil and whose == generation or is_past(generation)
end
