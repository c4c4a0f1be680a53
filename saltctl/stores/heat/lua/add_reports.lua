#!lua
-- Add heat reports to the sums of one window. A report of (conversation, server) counts once if it is repeated.
--   KEYS  one hash: a shard of the conversations in one window
--   ARGV  seconds until it expires, then conversation, server, writes of each report
--   returns the sum of the conversation after each report
-- The field <id> holds the sum, the field <id>#<server> the part of one server: ids never contain '#'. A repeated
-- report replaces the part if its count is higher, so that a redelivery does not count twice.
local sums = {}
for at = 2, #ARGV, 3 do
  local id, part = ARGV[at], ARGV[at] .. '#' .. ARGV[at + 1]
  local held = redis.call('HMGET', KEYS[1], id, part)
  local sum = tonumber(held[1]) or 0
  local more = tonumber(ARGV[at + 2]) - (tonumber(held[2]) or 0)
  if more > 0 then
    sum = sum + more
    -- %.0f, because Lua formats large numbers as 1e+15
    redis.call('HSET', KEYS[1], id, string.format('%.0f', sum), part, ARGV[at + 2])
  end
  sums[#sums + 1] = sum
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return sums
