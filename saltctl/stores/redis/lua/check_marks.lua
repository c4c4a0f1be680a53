#!lua
-- Before a rebuild is taken up again: does all that it merged still stand? The same as step 5 will ask, so that a scan
-- that would be in vain is not begun. Step 5 decides.
--   KEYS  buckets (of one slot, in a cluster)    ARGV  layout, token, replication id that was marked
--   returns what is wrong, or an empty text
local at = string.match(redis.call('INFO', 'replication'), 'role:master.-master_replid:(%x+)')
if at ~= ARGV[3] then
  return 'the primary changed its replication id'
end
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, '#rebuild') ~= ARGV[2] then
    return 'the token is gone from ' .. key
  end
end
return ''
