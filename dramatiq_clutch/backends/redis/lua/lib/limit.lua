-- Refill a stage with a limit: more members are sent as others are settled.
-- USES release, members

-- Owe that the waiting members are sent again. The duty's holder gets them from `reopen`, some at a time.
local function owe_retry(whose)
  set('retrying', 'retry:' .. stage .. ':' .. call('HINCRBY', head, 'retries', 1) .. ':' .. run.epoch)
  owe(run.retrying, nil, whose)
end

-- How many members may still be sent. A member counts against the limit from when it is sent until it is settled.
local function room_in(limit, recorded)
  return limit - (run.sent - recorded) - count(WORKING, FAILING)
end

-- Whether a job that is to be attempted again finds its place. In a stage with a limit a dead member has given it to
-- another, and if it waits to be sent again, it has none yet. A copy of its message may still be at work.
local function has_place(member)
  return not (limit_of(run.line) and call('ZSCORE', here.dead, member))
end

-- Owe that as many members are sent as there is room for. Members that wait to be sent again come before those that
-- have never been sent.
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
