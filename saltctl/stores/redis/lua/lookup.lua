#!lua flags=allow-oom
local held = redis.call('HMGET', KEYS[1], '#fence', unpack(ARGV, 2))
local fence = table.remove(held, 1)
local layout = ARGV[1] .. ':'
if fence and string.sub(fence, 1, #layout) == layout then
  local here = redis.call('INFO', 'replication')
  if string.find(here, 'master_replid:' .. string.sub(fence, #layout + 1) .. '\r\n', 1, true)
      and string.find(here, 'role:master\r\n', 1, true) then
    return held
  end
end
return redis.error_reply('UNVERIFIED this bucket was not verified here')
