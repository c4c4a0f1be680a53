#!lua
-- Add heat reports to the sums of one window. A report of (conversation, server) counts once if it is repeated.
--   KEYS  one hash: a shard of the conversations in one window
--   ARGV  seconds until it expires, then conversation, server, writes of each report
--   returns the sum of the conversation after each report
-- The field <id> holds the sum, the field <id>#<server> the part of one server: ids never contain '#'. A repeated
-- report replaces the part if its count is higher, so that a redelivery does not count twice.
-- All fields are read at once and written at once: two calls for each report cost more than all the rest (measured).
local fields, n = {}, 0
for at = 2, #ARGV, 3 do
  local id = ARGV[at]
  fields[n + 1], fields[n + 2] = id, id .. '#' .. ARGV[at + 1]
  n = n + 2
end
local held = redis.call('HMGET', KEYS[1], unpack(fields))
local now, changes, changed, sums = {}, {}, 0, {}  -- now: the fields that an earlier report of this call has changed
for at = 1, n, 2 do
  local id, part, writes = fields[at], fields[at + 1], tonumber(ARGV[(3 * at + 5) / 2])
  local sum = now[id] or tonumber(held[at]) or 0
  local more = writes - (now[part] or tonumber(held[at + 1]) or 0)
  if more > 0 then
    sum = sum + more
    now[id], now[part] = sum, writes
    -- As numbers, which redis.call writes with 17 digits; tostring would write large ones as 1e+15.
    changes[changed + 1], changes[changed + 2], changes[changed + 3], changes[changed + 4] = id, sum, part, writes
    changed = changed + 4
  end
  sums[(at + 1) / 2] = sum
end
if changed > 0 then
  redis.call('HSET', KEYS[1], unpack(changes))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return sums
