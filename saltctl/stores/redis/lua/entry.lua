-- An entry is a plain number, or 'max_n write_n epoch era recent_n boundary' if it was cooled (contracts/entries.py).
local function parse(text)
  local n = string.match(text, '^%d+$')
  if n then
    return {tonumber(n), tonumber(n), 0, 0, 0, ''}
  end
  local max_n, write_n, epoch, era, recent_n, boundary = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return max_n
    and {tonumber(max_n), tonumber(write_n), tonumber(epoch), tonumber(era), tonumber(recent_n), boundary}
end
-- Return the entry that holds what both know. A value that no lookup accepts, such as '1e3', counts as missing.
local function merged(held, given)
  local a = held and parse(held)
  if not a then
    return given
  end
  local b = parse(given)
  if a[3] == 0 and b[3] == 0 then
    return a[1] < b[1] and given or held  -- compare numbers, because '10' < '9' as strings
  end
  local newest = a[3] > b[3] and a or b
  local write_n = a[3] == b[3] and math.max(a[2], b[2]) or newest[2]
  local read = (a[4] > b[4] or (a[4] == b[4] and a[5] >= b[5])) and a or b
  local boundary = read[6]
  if a[4] == b[4] and a[6] ~= b[6] then
    boundary = ''  -- an era has one boundary, so neither is proved: readers cover max_n everywhere
  end
  return string.format('%d %d %d %d %d ', math.max(a[1], b[1]), write_n, newest[3], read[4], read[5]) .. boundary
end
