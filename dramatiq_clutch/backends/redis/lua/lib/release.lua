-- Owe the members of a stage: few by the caller, many shared out.
-- USES outbox, line, nested

-- Members to send. Many are shared out: the first of them own what follows, and do it as soon as they are at work.
local function owe_send(index, line, from, to)
  local lead = math.ceil(run.share * 2 / 5)
  if to - from <= 2 * run.share or has_flag('r', line) then return owe('send:' .. index .. ':' .. from .. ':' .. to) end
  local next, size = from + lead, math.max(run.share, math.ceil((to - from - lead) / lead))
  owe('send:' .. index .. ':' .. from .. ':' .. next .. ':' .. math.ceil((to - next) / size))
  while next < to do
    owe('send:' .. index .. ':' .. next .. ':' .. math.min(next + size, to), nil, index .. '.' .. from)
    next, from = next + size, from + 1
  end
end

-- What is to be done to the nested runs among many members: some by the caller, and the rest by whichever worker comes.
local function owe_shares(kind, to)
  if to == 0 then return end
  local size = math.max(math.ceil(run.share * 2 / 5), math.ceil(to / 50))
  local from = math.min(few_runs(), to)
  owe(kind .. ':' .. stage .. ':0:' .. from .. ':' .. run.epoch)
  while from < to do
    owe(kind .. ':' .. stage .. ':' .. from .. ':' .. math.min(from + size, to) .. ':' .. run.epoch, nil, '')
    from = from + size
  end
end

local function owe_stage(index, line)
  local total, limit = total_of(line), limit_of(line)
  if not total or total == 0 then return owe('open:' .. index) end
  if limit then
    total = math.min(total, limit)
    set('sent', total)
  end
  owe_send(index, line, 0, total)
end
