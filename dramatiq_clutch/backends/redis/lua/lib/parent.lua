-- Tell the parent of a nested run how the run stands.
-- USES outbox, members, snapshot

-- Owe a `tell` duty whenever the ending that the parent should know has changed; with `unheard`, although it hasn't. A
-- new `tell` duty replaces one that hasn't been done yet.
local function tell(unheard)
  if run.told == '' then return end
  local word = 'working'
  if run.state == 'succeeded' then
    word = 'succeeded'
  elseif run.state ~= 'running' then
    word = 'dead'
  elseif run.alarmed and count(FAILING) + count_dead() > 0 then
    word = 'failing'
  elseif run.told == 'failing' or run.told == 'attempted' then
    word = 'attempted'
  end
  if word == run.told and not unheard then return end
  set('told', word)
  local revision = call('HINCRBY', head, 'rev', 1)
  call('HDEL', outbox, 'tell:' .. (revision - 1))
  owe('tell:' .. revision, moment())
end
