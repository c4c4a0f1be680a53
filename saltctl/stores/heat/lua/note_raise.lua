#!lua
-- Record a raise as the latest, and keep a few. In one script, because instances record raises concurrently.
--   KEYS  one hash    ARGV  the raise as JSON on one line, number of raises to keep
--   returns the number of kept raises
local kept = {ARGV[1]}
for line in string.gmatch(redis.call('HGET', KEYS[1], 'raises') or '', '[^\n]+') do
  if #kept < tonumber(ARGV[2]) then
    kept[#kept + 1] = line
  end
end
redis.call('HSET', KEYS[1], 'last_raise', ARGV[1], 'raises', table.concat(kept, '\n'))
return #kept
