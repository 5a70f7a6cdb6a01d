-- Collect what this call does to the run, for the log of its caller: it gets a list of lists, as JSON.
-- USES line
local news = {}

-- Add an event, and how many members of the present stage have succeeded and are dead. `member` and `failure` are given
-- if the event concerns one member only; where the run fails of an error of its own, that is the `failure`. Where the
-- next stage is released, its line comes last, for it has that stage's name.
local function add_news(event, succeeded, dead, member, failure)
  failure = failure or event == 'failed' and run.error or ''
  local released = event == 'released' and line_of(stage + 1) or ''
  news[#news + 1] = {
    event, run.name, run.created, run.stages or 0, stage, line_of(stage), succeeded, dead, member or '', failure,
    released,
  }
end
