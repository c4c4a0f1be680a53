#!lua
-- Max-merge entries into buckets. Never lowers an entry, so it may run twice, late, or beside another.
--   KEYS  buckets (of one slot, in a cluster)
--   ARGV  layout, then for each key: the number of its pairs, id, n, id, n, ...
--   returns how many entries were raised
-- A replica that accepts writes (replica-read-only no) loses them at its next resynchronisation.
if string.find(redis.call('INFO', 'replication'), 'role:slave', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
-- A bucket that was fenced under another layout is not this client's to write: a raise that landed in
-- the wrong bucket would be acknowledged and never seen.
for _, key in ipairs(KEYS) do
  local fence = redis.call('HGET', key, '#fence')
  if fence and string.match(fence, '^(.*):%x+$') ~= ARGV[1] then
    return redis.error_reply('OTHERLAYOUT ' .. fence)
  end
end
local raised, at = 0, 2
for _, key in ipairs(KEYS) do
  local pairs_left = tonumber(ARGV[at])
  at = at + 1
  while pairs_left > 0 do
    -- unpack() fails above about 8,000 values: 1,000 entries at a time.
    local count = math.min(pairs_left, 1000)
    local ids, raise = {}, {}
    for i = 1, count do ids[i] = ARGV[at + 2 * (i - 1)] end
    local held = redis.call('HMGET', key, unpack(ids))
    for i = 1, count do
      local n = ARGV[at + 2 * (i - 1) + 1]
      -- Numbers, since Lua compares strings as strings: '10' < '9'. What no lookup would take for a salt count,
      -- such as '1e3', counts as none, and is written over.
      local now = held[i] and string.match(held[i], '^%d+$')
      if (tonumber(now) or 0) < tonumber(n) then
        raise[#raise + 1] = ids[i]
        raise[#raise + 1] = n
      end
    end
    if #raise > 0 then
      redis.call('HSET', key, unpack(raise))
      raised = raised + #raise / 2
    end
    at = at + 2 * count
    pairs_left = pairs_left - count
  end
end
return raised
