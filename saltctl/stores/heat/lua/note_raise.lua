#!lua
-- Remember a raise as the latest of a few. In one script, since instances of the service note theirs at once.
--   KEYS  one hash    ARGV  the raise as JSON on one line, how many are kept
--   returns how many there are
local kept = {ARGV[1]}
for line in string.gmatch(redis.call('HGET', KEYS[1], 'raises') or '', '[^\n]+') do
  if #kept < tonumber(ARGV[2]) then
    kept[#kept + 1] = line
  end
end
redis.call('HSET', KEYS[1], 'last_raise', ARGV[1], 'raises', table.concat(kept, '\n'))
return #kept
