#!lua
-- Step 3 of a rebuild: write its token into every bucket. Step 5 then detects that a bucket was lost in between.
-- The first 16 digits of the replication id go with it; all 40 would be too long for a listpack.
--   KEYS  buckets (of one slot, in a cluster)
--   ARGV  layout, token, '1' to replace the fences of another registry, if only its id differs
--   returns the replication id: the identity of this primary and of the data it may serve
local replication = redis.call('INFO', 'replication')
if string.find(replication, 'role:slave', 1, true) then
  return redis.error_reply('READONLY this is a replica')  -- also if it accepts writes (replica-read-only no)
end
local at = string.match(replication, 'role:master.-master_replid:(%x+)')
if at == nil then
  return redis.error_reply('NOREPLID INFO replication shows no master_replid')
end
for _, key in ipairs(KEYS) do
  local fence = redis.pcall('HGET', key, '#fence')
  if type(fence) == 'table' then
    return redis.error_reply(string.find(fence.err, 'WRONGTYPE', 1, true) and 'WRONGTYPE ' .. key or fence.err)
  end
  local theirs = fence and string.match(fence, '^(.*):%x+$')
  if fence and theirs ~= ARGV[1] then
    if ARGV[3] ~= '1' or not theirs or string.match(theirs, '^(.*):%x+$') ~= string.match(ARGV[1], '^(.*):%x+$') then
      return redis.error_reply('OTHERLAYOUT ' .. fence .. ' ' .. ARGV[1])
    end
    redis.call('HDEL', key, '#fence')
  end
  redis.call('HSET', key, '#rebuild', ARGV[2] .. ':' .. string.sub(at, 1, 16))
end
return at
