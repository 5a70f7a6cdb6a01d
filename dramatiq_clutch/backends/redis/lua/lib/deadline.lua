-- Deadlines: of the run as a whole, and of its present stage.
-- USES halt, rest

-- Begin the deadline of the stage with this line, which is released or retried; and with `of_run` that of the run. What
-- a stage waits before it begins doesn't count against it, nor does anything before `since` (UNIX ms), which is now
-- unless it is given. Returns the line.
local function begin_deadlines(line, of_run, since)
  if not run.soonest then return line end
  since = since or now
  local stage_ms = tonumber(word_of('deadline', line))
  run.stage_by = stage_ms and math.max(since, number_in(line, 'from')) + stage_ms
  call('HSET', head, 'stage_by', run.stage_by or '')
  if of_run and run.deadline then set('run_by', since + run.deadline) end
  tells_by = true
  return line
end

local function is_overdue()
  return now >= math.min(run.run_by or math.huge, run.stage_by or math.huge)
end

-- Let a run that is at work break off, because a deadline is over.
local function exceed()
  if run.state ~= 'running' then return end
  local text = 'the deadline of stage ' .. stage .. ' (' .. (word_of('deadline') or '') .. ' ms) was over before it was'
  if run.run_by and now >= run.run_by then
    text = string.format('the deadline of the run (%.0f ms) was over before stage %d was', run.deadline, stage)
  end
  local failure = '{"actor": "", "message_id": "", "type": "DeadlineExceeded", "text": "%s complete", "attempts": 0, '
  failure = failure .. '"failed_at": %.0f}'
  set('error', string.format(failure, text, now)) -- `cjson` would write the names in any order
  ring('alarmed', 'on_failure')
  break_off()
end
