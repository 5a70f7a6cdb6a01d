-- Read a stage's line: '<first row> <members> <flags> <limit> ...'. The number of members is '?' until a mapped stage
-- is opened. Behind the limit come words, such as 'wait=5000'.
-- USES run
local function line_of(index)
  if index == stage and run.line ~= '' then return run.line end
  return run.lines[index] or call('HGET', head, 's' .. index) or ''
end

local function total_of(line)
  return tonumber(string.match(line, '^%d+ (%d+) '))
end

local function has_flag(letter, line)
  return string.find(line or run.line, '^%d+ %S+ %a*' .. letter) ~= nil
end

-- What the line says by a word such as `enough=3`: '3', or nil.
local function word_of(name, line)
  return string.match(line or run.line, ' ' .. name .. '=(%S+)')
end

-- The same where it is a number; 0 if the line doesn't say it.
local function number_in(line, name)
  return tonumber(word_of(name, line) or 0)
end

local function limit_of(line)
  local limit = tonumber(string.match(line, '^%d+ %S+ %S+ (%d+)'))
  return limit ~= 0 and limit or nil
end

-- How many members of the present stage are owed or sent; nil until it is opened, when `sent` may be that of another.
local function sent_so_far()
  local total = total_of(run.line)
  return total and limit_of(run.line) and run.sent or total
end
