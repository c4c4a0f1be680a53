#!lua
-- Merge entries into buckets. An entry only grows, so this may run twice, late, or concurrently.
--   KEYS  buckets (of one slot, in a cluster), each once
--   ARGV  layout, then for each key: the number of its pairs, at most 1,000, then id, entry, id, entry, ...
--   returns how many entries changed
-- include entry
-- A replica that accepts writes (replica-read-only no) loses them at its next resynchronisation.
if string.find(redis.call('INFO', 'replication'), 'role:slave', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
-- First read all entries and fences. A client must not write to a bucket that is fenced under another layout: a raise
-- in the wrong bucket would be acknowledged, and no reader would see it.
local held, at = {}, 2
for k, key in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  local fields = {'#fence'}
  for i = 1, count do fields[i + 1] = ARGV[at + 2 * i - 1] end
  local found = redis.call('HMGET', key, unpack(fields))
  if found[1] and string.match(found[1], '^(.*):%x+$') ~= ARGV[1] then
    return redis.error_reply('OTHERLAYOUT ' .. found[1] .. ' ' .. ARGV[1])
  end
  held[k] = found
  at = at + 1 + 2 * count
end
local raised = 0
at = 2
for k, key in ipairs(KEYS) do
  local count, found, raise = tonumber(ARGV[at]), held[k], {}
  for i = 1, count do
    local now, n = found[i + 1], ARGV[at + 2 * i]
    if now ~= n then
      local new = merged(now, n)
      if new ~= now then
        raise[#raise + 1] = ARGV[at + 2 * i - 1]
        raise[#raise + 1] = new
      end
    end
  end
  if #raise > 0 then
    redis.call('HSET', key, unpack(raise))
    raised = raised + #raise / 2
  end
  at = at + 1 + 2 * count
end
return raised
