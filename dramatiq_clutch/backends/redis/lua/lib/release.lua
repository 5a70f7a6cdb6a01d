-- Owe that the members of a stage are sent. The caller sends a few members by itself; many are shared out.
-- USES outbox, line, nested

-- Owe that the members from `from` up to `to` (excluded) are sent. Many are shared out: the first of them are leaders,
-- and each owns a share of the others, which it sends as soon as it is at work.
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

-- Owe `kind` (resume, revive or halt) for the first `to` members of a stage with nested runs. The caller does that for
-- the first few; the rest are shares for anybody, of which each sweeper takes one at a time.
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

-- Note when a stage begins that is released now, if that is later: when its wait is over, which counts from `since`
-- (UNIX ms). What is sent of it is delayed until then. Returns its line.
local function begin_stage(index, since)
  local line = line_of(index)
  local from = since + number_in(line, 'wait')
  if from <= now then return line end
  if not string.find(line, '^%d+ %S+ %S+ %d') then line = line .. ' 0' end -- no limit
  line = line .. ' from=' .. from
  if index == stage then run.line = line else run.lines[index] = line end
  call('HSET', head, 's' .. index, line)
  wait_until(from)
  return line
end

-- Owe that a stage is opened, or that its members are sent, no more than its limit.
local function owe_stage(index, line)
  local total, limit = total_of(line), limit_of(line)
  if not total or total == 0 then return owe('open:' .. index) end
  if limit then
    total = math.min(total, limit)
    set('sent', total)
  end
  owe_send(index, line, 0, total)
end
