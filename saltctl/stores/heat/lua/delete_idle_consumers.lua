#!lua
-- Delete idle consumers that have no pending entries. In one script: XGROUP DELCONSUMER discards pending entries,
-- so no entry may be delivered between the check and the deletion.
--   KEYS  the stream    ARGV  group, idle time in milliseconds, a name or '' for all
--   returns the names of the deleted consumers
local deleted = {}
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  local selected = ARGV[3] == '' or ARGV[3] == consumer['name']
  if selected and consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    deleted[#deleted + 1] = consumer['name']
  end
end
return deleted
