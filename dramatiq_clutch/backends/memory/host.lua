-- What the server gives to a script: `redis`, `cjson`, Lua's own functions, and no way out of the script.
-- This chunk gets three functions of the host's:
--   execute(command, argument...) -> reply, or nil and the text of the error
--   encode(value) -> JSON; decode(JSON) -> value
-- and returns two: prepare(script), once; run(script, keys, argv) -> true and what it returns, or false and its error.
local execute, encode, decode = ...
local getinfo = debug.getinfo

-- An error of a command is a table, and says in which line of which script it came up.
local function failed(text)
  local place = getinfo(3, 'Sl')
  return {err = text, source = place.source, line = place.currentline}
end

local redis = {}

function redis.call(...)
  local reply, text = execute(...)
  if text then error(failed(text)) end
  return reply
end

function redis.pcall(...)
  local reply, text = execute(...)
  if text then reply = failed(text) end
  return reply
end

function redis.error_reply(text)
  return {err = text}
end

function redis.status_reply(text)
  return {ok = text}
end

-- All that a script sees. As on the server, it can't make a global of its own, and asking for one that isn't there is an
-- error.
local globals = {redis = redis, cjson = {encode = encode, decode = decode}}
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
  if not found.source then
    local place = getinfo(2, 'Sl')
    if place and place.what == 'C' then place = getinfo(3, 'Sl') end
    if place then found.source, found.line = place.source, place.currentline end
  end
  return found
end

local function prepare(script)
  setfenv(script, globals)
end

local function run(script, keys, argv)
  globals.KEYS, globals.ARGV = keys, argv
  return xpcall(script, with_place)
end

return prepare, run
