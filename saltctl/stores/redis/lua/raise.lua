#!lua
-- Step 2 of a raise or a cool-down: merge one entry into its bucket, unless this primary was deposed.
--   KEYS  bucket
--   ARGV  layout, id, entry, whether an unverified primary is accepted ('1'), then the replication ids of the primaries
--         that the newest rebuild verifies; '*' stands for any
--   returns whether the entry changed (0 or 1); the state of the primary:
--     noted       this is one of those primaries
--     unverified  it is not, and no lookup is answered from this bucket; changed only if that is accepted
--     deposed     it is not, and answers lookups: it was verified by an earlier rebuild; nothing was changed
--   and the replication ids of other primaries that the fence and the token of a rebuild name, empty without one: if
--   the bucket's slot went back to such a primary, it would be taken for verified there
-- include entry
local replication = redis.call('INFO', 'replication')
if string.find(replication, 'role:slave', 1, true) then
  return redis.error_reply('READONLY this is a replica')  -- also if it accepts writes (replica-read-only no)
end
local at = string.match(replication, 'role:master.-master_replid:(%x+)')
local held = redis.call('HMGET', KEYS[1], '#fence', ARGV[2], '#rebuild')
local fence, now, token = held[1], held[2], held[3]
if fence and string.match(fence, '^(.*):%x+$') ~= ARGV[1] then
  return redis.error_reply('OTHERLAYOUT ' .. fence .. ' ' .. ARGV[1])
end
local state = at and fence == ARGV[1] .. ':' .. at and 'deposed' or 'unverified'
for i = 5, #ARGV do
  if ARGV[i] == at or ARGV[i] == '*' then
    state = 'noted'
  end
end
local function other(text)
  local id = text and string.match(text, ':(%x+)$')
  return id and id ~= string.sub(at or '', 1, #id) and id or ''
end
local accepted = state == 'noted' or (state == 'unverified' and ARGV[4] == '1')
local new = accepted and merged(now, ARGV[3])
if not accepted or new == now then
  return {0, state, other(fence), other(token)}
end
redis.call('HSET', KEYS[1], ARGV[2], new)
return {1, state, other(fence), other(token)}
