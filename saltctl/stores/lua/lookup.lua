#!lua flags=allow-oom
local at = string.match(redis.call('INFO', 'replication'), 'role:master.-master_replid:(%x+)')
local held = redis.call('HMGET', KEYS[1], '#fence', unpack(ARGV, 2))
if at == nil or held[1] ~= ARGV[1] .. ':' .. at then
  return redis.error_reply('UNVERIFIED this bucket was not verified here')
end
table.remove(held, 1)
return held
