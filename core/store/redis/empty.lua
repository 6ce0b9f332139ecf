-- Values that may be lost are taken away: one by its name, or a piece of all whose names begin so, from a cursor on. A first piece moves
-- the mark on, so that what was asked for before is not kept.
-- KEYS: mark, order, sizes, bytes
-- ARGV: what names of values begin with, 'one' and its name, or 'first' or 'next' with a beginning of names and a cursor
-- Answers {cursor, removed, mark, bytes}
local mark, order, sizes, total = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, what, names = ARGV[1], ARGV[2], ARGV[3]
local removed, cursor = 0, '0'
local bytes = 0
if redis.call('EXISTS', order) == 1 then bytes = tonumber(redis.call('GET', total) or 0) end

local function drop(gone)
  bytes = bytes - tonumber(redis.call('HGET', sizes, gone) or 0)
  redis.call('HDEL', sizes, gone)
  redis.call('UNLINK', prefix .. gone)
  removed = removed + redis.call('ZREM', order, gone)
end

if what == 'one' then
  drop(names)
else
  if what == 'first' then redis.call('INCR', mark) end
  local page = redis.call('ZSCAN', order, ARGV[4], 'MATCH', names .. '*', 'COUNT', 500)
  cursor = page[1]
  for at = 1, #page[2], 2 do drop(page[2][at]) end
end
bytes = math.max(0, bytes)
if redis.call('EXISTS', order) == 1 then
  redis.call('SET', total, string.format('%.0f', bytes), 'KEEPTTL')
else
  redis.call('DEL', sizes, total)
end
return {cursor, removed, redis.call('GET', mark) or '0', string.format('%.0f', bytes)}
