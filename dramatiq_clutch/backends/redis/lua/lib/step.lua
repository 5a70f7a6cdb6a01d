-- The common step of a series: a job succeeds of which nothing was recorded yet, and is followed by one job, whose
-- message the broker sends in the same step. `lib/life` and those that it uses would come to the same, but making their
-- functions takes as long as all the rest, and the next job waits for it.
-- USES line, times, ahead, news, along
-- KEYS here.members, before.members, before.standing, before.dead, before.attempts, outbox
-- READS onward_duty, member, ending, nested, of_run, began, payload, renew
-- See `record`, `lib/clocking` and `lib/onward` for these.

-- Whether a stage has one job, and is complete once that has succeeded. Only a name may stand behind its flags.
local function is_one_job(line)
  return string.find(line, '^%d+ 1 [-pi]+$') or string.find(line, '^%d+ 1 [-pi]+ 0 name=%S+$')
end

-- Whether everything that could make a difference is as in most steps of most runs. A nested run has nothing to tell
-- its parent, if that knows that it works; and of any other run the turn is counted already.
local function is_common()
  return dispatch and run.state == 'running' and run.stage == stage
    and asked.onward_duty == 'send:' .. (stage + 1) .. ':0:1'
    and asked.member == '0' and asked.ending == 'succeeded' and asked.nested == '' and not (asked.of_run or asked.renew)
    and run.taken_up == 0 and not (run.timed or run.soonest or run.keeps or run.stalled)
    and (run.told == 'working' or run.told == '' and string.find(run.turn, ' running$'))
    and is_one_job(run.line) and is_one_job(line_of(stage + 1)) and not word_of('enough', run.lines[stage - 1] or '')
    and call('EXISTS', outbox) == 0
end

if is_common() then
  local recorded = call('HMGET', here.members, '', asked.member)
  run.began = recorded[1]
  local sent, kept
  if run.began and not recorded[2] then sent, kept = send_onward() end
  if sent then -- otherwise the duty is owed, and all else is as ever
    enter(asked.member, 'S' .. asked.payload, asked.began)
    call('UNLINK', before.members, before.standing, before.dead, before.attempts)
    add_news('released', 1, 0)
    go_to_next()
    local did, ahead = in_words(sent, kept, ack()), next_of(run.stage)
    return brief_reply('counts', did, ahead[1], cjson.encode(news), ahead[2])
  end
end
