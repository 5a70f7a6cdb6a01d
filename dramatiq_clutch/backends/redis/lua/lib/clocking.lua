-- Note when what is recorded was at work, in a run with timings.
-- USES run, timings
-- KEYS here.members, here.times
-- ARGV member, ending, epoch number, attempt number, nested, of_run flag, began, worker
-- These are arguments of `record`. `nested` is the plan of the runs that the job nested, or ''. `of_run` says that a
-- nested run tells how it stands. `began`: when the attempt, or the run, began, or ''; `worker`: where, or ''.
local known

-- Note that a job's attempt has ended, whether that counts or not. What `clock` has written isn't changed by this.
local function note_end()
  if of_run then
    known = read_entry(call('HGET', here.times, member))
  else
    known = end_attempt(here.times, here.members, member, epoch, attempt, began, now)
  end
end

-- The record counts. `was` is the letter of the member's field until then. A success is final, so the member has its
-- times, whatever other attempts have begun; otherwise those of a later one that has begun stay. A job that has nested
-- runs ends when these do. `members` are those that are set aside, if the run is cancelled.
local function clock(was, members)
  if not run.timed then return end
  local from, ended, who = began == '' and '-' or began, now, worker == '' and '-' or worker
  if of_run then
    from, who = was == 'N' and known.began or from, was == 'N' and known.worker or '-'
    if ending ~= 'succeeded' and ending ~= 'dead' then ended = '+' end
  elseif ending ~= 'succeeded' and (known.epoch > epoch or (known.epoch == epoch and known.attempt > attempt)) then
    return
  elseif nested ~= '' then
    ended = '+'
  elseif compare(known, epoch, attempt, began) == 0 and not (known.works or known.nests) then
    return -- `note_end` has written it
  end
  local entry = table.concat({epoch, attempt, from, ended, run.era, who}, ' ')
  write_entry(here.times, members or here.members, member, entry)
end
