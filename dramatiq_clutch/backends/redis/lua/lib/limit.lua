-- A stage with a limit: its members are sent one after another, as others are settled.
-- USES release, members

-- The members that wait are to be sent again, some at a time (see `reopen`).
local function owe_retry(whose)
  set('retrying', 'retry:' .. stage .. ':' .. call('HINCRBY', head, 'retries', 1) .. ':' .. run.epoch)
  owe(run.retrying, nil, whose)
end

-- How many members may still be sent: a member has its place until it is settled.
local function room_in(limit, recorded)
  return limit - (run.sent - recorded) - count(WORKING, FAILING)
end

-- Send as many members as there is room for; those first that wait to be sent again.
local function fill(total, recorded)
  local limit = limit_of(run.line)
  if not limit then return end
  local room = room_in(limit, recorded)
  if room <= 0 then return end
  local waiting = count_waiting()
  if waiting > 0 and run.retrying == '' then owe_retry() end
  room = room - waiting
  if room > 0 and run.sent < total then
    local to = math.min(total, run.sent + room)
    owe_send(stage, run.line, run.sent, to)
    set('sent', to)
  end
end
