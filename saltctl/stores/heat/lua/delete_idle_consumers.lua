#!lua
-- Forget consumers that are gone and hold nothing. In one script: XGROUP DELCONSUMER throws pending entries
-- away, so nothing may be delivered between looking and deleting.
--   KEYS  the stream    ARGV  group, milliseconds without a sign of life, a name or '' for all
--   returns the names that were forgotten
local forgotten = {}
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  local meant = ARGV[3] == '' or ARGV[3] == consumer['name']
  if meant and consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    forgotten[#forgotten + 1] = consumer['name']
  end
end
return forgotten
