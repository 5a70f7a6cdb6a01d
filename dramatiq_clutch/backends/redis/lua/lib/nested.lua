-- Whether members of the stage are nested runs, or jobs that have nested some.
-- USES line
-- KEYS here.nests
local function has_nested()
  return has_flag('r') or call('EXISTS', here.nests) == 1
end

-- How many nested runs one caller sees to by itself. What is to be done to more is shared out.
local function few_runs()
  return math.ceil(run.share * 2 / 25)
end
