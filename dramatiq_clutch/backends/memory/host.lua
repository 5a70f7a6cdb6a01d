-- Give a script what the server gives it (`redis`, `cjson` and Lua's own functions), and nothing else.
-- This chunk gets three functions of the host, which is Python:
--   execute(command, argument...) -> reply, or nil and the text of the error
--   encode(value) -> JSON
--   decode(JSON) -> value, or nil and what is wrong with it
-- and returns two: prepare(script), once; run(script, keys, argv) -> true and what it returns, or false and its error.
local execute, encode, decode = ...
local getinfo = debug.getinfo

-- The line of the script that is at work, or nil: Lua knows no line of a function that ends with a tail call.
local function line_of_script()
  local level, place = 2, nil
  repeat
    level = level + 1
    place = getinfo(level, 'Sl')
  until not place or place.source == '@user_script'
  return place and place.currentline
end

local redis = {}

function redis.call(...)
  local reply, text = execute(...)
  if text then error({err = text}) end
  return reply
end

function redis.pcall(...)
  local reply, text = execute(...)
  return text and {err = text} or reply
end

function redis.error_reply(text)
  return {err = text}
end

function redis.status_reply(text)
  return {ok = text}
end

local cjson = {encode = encode}

function cjson.decode(text)
  local value, complaint = decode(text)
  if complaint then error(complaint, 2) end
  return value
end

-- All global variables that a script sees. As on the server, it is an error to assign to a global variable, or to read
-- one that doesn't exist.
local globals = {redis = redis, cjson = cjson}
for _, name in ipairs({
  'assert', 'error', 'getmetatable', 'ipairs', 'loadstring', 'math', 'next', 'pairs', 'pcall', 'rawequal', 'rawget',
  'rawset', 'select', 'setmetatable', 'string', 'table', 'tonumber', 'tostring', 'type', 'unpack', 'xpcall',
}) do
  globals[name] = _G[name]
end
globals.KEYS, globals.ARGV = {}, {}
setmetatable(globals, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
  __newindex = function()
    error('Attempt to modify a readonly table', 2)
  end,
})

-- Make an error a table with its line. An exception of the host (a userdata) passes as it is.
local function with_place(found)
  if type(found) == 'userdata' then return found end
  if type(found) ~= 'table' then found = {err = 'ERR ' .. tostring(found)} end
  found.line = line_of_script()
  return found
end

local function prepare(script)
  setfenv(script, globals)
end

local function run(script, keys, argv)
  globals.KEYS, globals.ARGV = keys, argv
  local works, found = xpcall(script, with_place)
  return works, found -- always two values: a script that returns nothing gives nil
end

return prepare, run
