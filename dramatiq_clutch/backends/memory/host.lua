-- What the server gives to a script: `redis`, `cjson`, Lua's own functions, and no way out of the script.
-- This chunk gets three functions of the host's:
--   execute(command, argument...) -> reply, or nil and the text of the error
--   encode(value) -> JSON
--   decode(JSON) -> value, or nil and what is wrong with it
-- and returns two: prepare(script), once; run(script, keys, argv) -> true and what it returns, or false and its error.
local execute, encode, decode = ...
local getinfo = debug.getinfo

-- The line of the script that is at work; it can't be told of what is returned by calling something.
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

-- All that a script sees. As on the server, it can't make a global of its own, and asking for one that isn't there is an
-- error.
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

-- An exception of the host's passes as it is.
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
  return works, found -- two values, although it may return none
end

return prepare, run
