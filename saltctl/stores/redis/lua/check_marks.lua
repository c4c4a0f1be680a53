#!lua
-- Before a rebuild resumes: check that every bucket still has its token. Step 5 checks the same and decides; this check
-- only saves a scan that would be useless.
--   KEYS  buckets (of one slot, in a cluster)    ARGV  layout, token, replication id of step 3
--   returns the problem, or an empty string
local at = string.match(redis.call('INFO', 'replication'), 'role:master.-master_replid:(%x+)')
if at ~= ARGV[3] then
  return 'the primary changed its replication id'
end
local token = ARGV[2] .. ':' .. string.sub(at, 1, 16)
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, '#rebuild') ~= token then
    return 'the token is gone from ' .. key
  end
end
return ''
