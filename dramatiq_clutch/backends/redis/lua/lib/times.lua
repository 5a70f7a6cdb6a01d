-- Note when the present stage was released, when it began, and when it was complete or its run came to rest in it.
-- USES run
-- KEYS here.members, here.halted
-- The field '' of `members` says when the stage's first attempt began, as its first record has told; '' if none has.

-- Write down how a member is recorded; with the first record of the stage also when that attempt `began` (UNIX ms, or
-- ''). The script has read until then what is known of that into `run.began`. In a cancelled run, `members` are those
-- that are set aside.
local function enter(member, field, began, members)
  members = members or here.members
  if run.began ~= '' or began == '' then return call('HSET', members, member, field) end
  run.began = began
  call('HSET', members, member, field, '', began)
end

local function began_at()
  return run.began or call('HGET', here.members, '') or call('HGET', here.halted, '') or ''
end

-- The field of the stage, which is settled now. What isn't known is '-'.
local function times()
  local began = began_at()
  return (string.match(run.times, '^%S+') or '-') .. ' ' .. (began == '' and '-' or began) .. ' ' .. now
end
