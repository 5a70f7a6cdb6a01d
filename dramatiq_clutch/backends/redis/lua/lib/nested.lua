-- Whether the stage has members that are nested runs, or jobs that have nested runs.
-- USES line
-- KEYS here.nests
local function has_nested()
  return has_flag('r') or call('EXISTS', here.nests) == 1
end

-- How many members with nested runs the caller itself cancels or revives. The members beyond that are shared out.
local function few_runs()
  return math.ceil(run.share * 2 / 25)
end
