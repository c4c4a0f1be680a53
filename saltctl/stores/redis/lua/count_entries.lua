#!lua flags=no-writes
-- Count entries and fences for doctor and status, without changing anything.
--   KEYS  buckets (of one slot, in a cluster)    ARGV  layout
--   returns the number of entries; the numbers of buckets that are fenced here, fenced on another primary or
--   under another layout, and marked by a rebuild; and the keys that are no hashes, so that another program wrote them
local replication = redis.call('INFO', 'replication')
local at = string.match(replication, 'role:master.-master_replid:(%x+)')
local entries, fenced, foreign, marked, overwritten = 0, 0, 0, 0, {}
for _, key in ipairs(KEYS) do
  local own = redis.pcall('HMGET', key, '#fence', '#rebuild')
  if own.err then
    if not string.find(own.err, 'WRONGTYPE', 1, true) then
      return own
    end
    table.insert(overwritten, key)
  else
    entries = entries + redis.call('HLEN', key) - (own[1] and 1 or 0) - (own[2] and 1 or 0)
    if own[2] then
      marked = marked + 1
    end
    if at and own[1] == ARGV[1] .. ':' .. at then
      fenced = fenced + 1
    elseif own[1] then
      foreign = foreign + 1
    end
  end
end
return {entries, fenced, foreign, marked, overwritten}
