-- Return how the run stands at one moment.
-- USES snapshot, nested
-- returns {'there', snapshot as JSON, member...}, {'unknown'}, or {'moved'} if `stage` isn't the present stage. The
--         members are the first of a stage with nested runs that aren't settled: at most MOST_LOOKED_INTO, and of
--         those that have told nothing yet, only such as are among the stage's first MANY
if not run.state then return {'unknown'} end
if run.stage ~= stage then return {'moved'} end
local reply = {'there', snapshot()}
if run.state == 'succeeded' or not has_nested() then return reply end

for _, member in ipairs(call('ZRANGE', here.standing, 0, MOST_LOOKED_INTO - 1)) do reply[#reply + 1] = member end
if not has_flag('r') then return reply end -- a job that has nested runs stands in `standing`
local recorded = run.state == 'cancelled' and here.halted or here.members
local sent = sent_so_far() or 0
for member = 0, math.min(sent, MANY) - 1 do
  if #reply >= MOST_LOOKED_INTO + 2 then break end
  if call('HEXISTS', recorded, member) == 0 then reply[#reply + 1] = member end
end
return reply
