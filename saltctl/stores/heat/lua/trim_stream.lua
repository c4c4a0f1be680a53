#!lua
-- Trim entries that all groups have read and acknowledged and that are older than a time.
--   KEYS  the stream    ARGV  milliseconds since the epoch: younger entries stay
--   returns the number of removed entries
-- In one script, so that no group is created and no entry is read between the check and the trimming.
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  if a_ms ~= b_ms then
    return tonumber(a_ms) < tonumber(b_ms)
  end
  return tonumber(a_seq) < tonumber(b_seq)
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
  return 0  -- no group has read any entry
end
local bound = ARGV[1] .. '-0'
for _, flat in ipairs(groups) do
  local group = {}
  for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
  local unread = group['last-delivered-id']
  if before(unread, bound) then
    bound = unread
  end
  if group['pending'] > 0 then
    local oldest = redis.call('XPENDING', KEYS[1], group['name'])[2]
    if before(oldest, bound) then
      bound = oldest
    end
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', bound)
