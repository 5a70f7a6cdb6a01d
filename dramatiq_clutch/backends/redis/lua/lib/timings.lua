-- Keep when and where the last attempt of each member was at work, in a run with timings. `key` is the stage's `times`.
-- An entry of `times` is '<epoch> <attempt> <began> <ended> <era> <worker>'. An end that is to come is '-' of a job's
-- attempt, and '+' of nested runs; otherwise '-' is what isn't known. Of two attempts the one of the higher (epoch,
-- attempt, began) is later: the same attempt begins anew when its message is redelivered.
local function read_entry(entry)
  local found = {string.match(entry or '', '^(%d+) (%d+) (%S+) (%S+) (%d+) (.*)$')}
  return {epoch = tonumber(found[1] or -1), attempt = tonumber(found[2] or -1), began = found[3] or '-',
    works = found[4] == '-', nests = found[4] == '+', era = tonumber(found[5] or -1), worker = found[6] or '-'}
end

-- A positive number if the attempt of the entry is later than this one, a negative if it is earlier, otherwise 0.
local function compare(entry, epoch, attempt, began)
  local by = entry.epoch ~= epoch and entry.epoch - epoch or entry.attempt - attempt
  return by ~= 0 and by or (tonumber(entry.began) or 0) - (tonumber(began) or 0)
end

-- A key that has just got its first entry lives as long as the stage's members, which may be gone by now.
local function begin_key(key, members)
  if redis.call('HLEN', key) > 1 then return end
  local left = redis.call('PTTL', members)
  if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
end

local function write_entry(key, members, member, entry)
  if redis.call('HSET', key, member, entry) == 1 then begin_key(key, members) end
end

-- Note that an attempt begins; not if it has ended, or a later one has begun: then this call is a repetition, or late.
local function begin_attempt(key, members, member, epoch, attempt, began, era, worker)
  local entry = table.concat({epoch, attempt, began, '-', era, worker}, ' ')
  if epoch + attempt == 0 and redis.call('HSETNX', key, member, entry) == 1 then
    return begin_key(key, members)
  end
  local known = read_entry(redis.call('HGET', key, member))
  if compare(known, epoch, attempt, began) < 0 then write_entry(key, members, member, entry) end
end

-- An attempt has ended, whether that counts or not. Returns what was known of the member until then.
local function end_attempt(key, members, member, epoch, attempt, began, ended)
  local known = read_entry(redis.call('HGET', key, member))
  if known.works and compare(known, epoch, attempt, began) == 0 then
    known.works = false
    write_entry(key, members, member,
      table.concat({epoch, attempt, began, ended, known.era, known.worker}, ' '))
  end
  return known
end
