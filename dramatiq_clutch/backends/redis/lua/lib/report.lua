-- Report what this call does to the run (see `lib/news`).
-- USES news, snapshot

-- How many members of the present stage have succeeded, and how many are dead.
local function how_many()
  local found = counts()
  return found.recorded - found.working - found.attempted - found.failing - found.dead, found.dead
end

-- Report an event. If it isn't said how many members have succeeded and are dead, they are counted here.
local function report(event, succeeded, dead, member, failure)
  if not succeeded then succeeded, dead = how_many() end
  add_news(event, succeeded, dead, member, failure)
end
