#!lua
-- Step 5 of a rebuild: set the fence in the buckets that still have the token of this rebuild.
--   KEYS  buckets (of one slot, in a cluster)    ARGV  layout, token, replication id of step 3
--   returns the number of fenced buckets
-- A missing token means a flush, an eviction or another rebuild in between. Another replication id means that this
-- primary was demoted and promoted again, and may have lost merged entries.
local at = string.match(redis.call('INFO', 'replication'), 'role:master.-master_replid:(%x+)')
if at ~= ARGV[3] then
  return redis.error_reply('BROKEN the primary changed its replication id')
end
local token = ARGV[2] .. ':' .. string.sub(at, 1, 16)
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, '#rebuild') ~= token then
    return redis.error_reply('BROKEN the token is gone from ' .. key)
  end
end
for _, key in ipairs(KEYS) do
  redis.call('HSET', key, '#fence', ARGV[1] .. ':' .. at)
  redis.call('HDEL', key, '#rebuild')
end
return #KEYS
