-- Count the turns of a run: each brings it under another state, as a status shows it. The register goes by them.
-- USES run
-- A nested run isn't in the register, and has no turns.
-- `run.turn` is '<how many> <state>', or '' if there was none.
local turned = false -- whether the reply tells the turn

local function turn(state)
  local turns, shown = string.match(run.turn, '^(%d+) (%a+)$')
  if run.told ~= '' or shown == state then return end
  run.turn, turned = (turns or 0) + 1 .. ' ' .. state, true
  call('HSET', head, 'turn', run.turn)
end

-- Tell the turn, though it may have been told before: then the register is none the worse for it.
local function say_turn()
  if run.turn == '' and run.state ~= 'running' then call('HSETNX', head, 'ended', now) end
  turn(string.match(run.turn, '%a+$') or run.state) -- an older release has counted none
  turned = run.told == ''
end

-- What the register has to know of the run, as a part of the reply.
local function told_turn()
  return {'turn', run.turn, unpack(call('HMGET', head, 'created', 'ended', 'name', 'tags', 'stalled'), 1, 5)}
end
