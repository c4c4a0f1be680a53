#!lua
-- Add heat reports to the sums of one window, each (conversation, server) once however often it arrives.
--   KEYS  one hash: a share of the conversations in one window
--   ARGV  seconds until it expires, then conversation, server, writes of each report
--   returns the sum of the conversation after each report
-- A conversation's sum is under its id, a server's part under id#server: ids hold no '#'. A server that
-- reports again replaces its part where the new count is higher, so that redelivery counts nothing twice.
local sums = {}
for at = 2, #ARGV, 3 do
  local id, part = ARGV[at], ARGV[at] .. '#' .. ARGV[at + 1]
  local held = redis.call('HMGET', KEYS[1], id, part)
  local sum = tonumber(held[1]) or 0
  local more = tonumber(ARGV[at + 2]) - (tonumber(held[2]) or 0)
  if more > 0 then
    sum = sum + more
    -- %.0f, since Lua writes large numbers as 1e+15
    redis.call('HSET', KEYS[1], id, string.format('%.0f', sum), part, ARGV[at + 2])
  end
  sums[#sums + 1] = sum
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return sums
