-- A value that may be lost: kept for its time, within a bound of bytes of all such values, unless something was emptied since it was
-- asked for. What has ended by itself leaves the books first, then the oldest make room.
-- KEYS: mark, order, sizes, bytes, the value's own
-- ARGV: the value, its name, what names of values begin with, milliseconds to keep, mark, bound
-- Answers {1, evicted, bytes}, {0} after an emptying, {2} where there is no room
local mark, order, sizes, total, own = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local value, name, prefix, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local bound = tonumber(ARGV[6])
-- Of one step, so that nobody waits long.
local MOST = 200
-- What an entry costs besides its bytes.
local OVERHEAD = 256

if tonumber(redis.call('GET', mark) or 0) ~= tonumber(ARGV[5]) then return {0} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = 0
if redis.call('EXISTS', order) == 1 then bytes = tonumber(redis.call('GET', total) or 0) end

local function drop(gone)
  bytes = bytes - tonumber(redis.call('HGET', sizes, gone) or 0)
  redis.call('ZREM', order, gone)
  redis.call('HDEL', sizes, gone)
  redis.call('UNLINK', prefix .. gone)
end

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', now, 'LIMIT', 0, MOST)) do drop(gone) end
drop(name)
local size, evicted = #value + OVERHEAD, 0
-- Rows and counters lie here too: they keep a fifth of the server's memory to themselves.
local info = redis.pcall('INFO', 'memory')
if type(info) == 'string' then
  local most, used = tonumber(info:match('\nmaxmemory:(%d+)') or 0), tonumber(info:match('used_memory:(%d+)') or 0)
  if most > 0 and used + size > most * 0.8 then bound = math.min(bound, bytes - size) end
end
while bytes + size > bound and evicted < MOST do
  local oldest = redis.call('ZRANGE', order, 0, 0)[1]
  if not oldest then break end
  drop(oldest)
  evicted = evicted + 1
end
local fits = bytes + size <= bound
if fits then
  redis.call('SET', own, value, 'PX', string.format('%.0f', keep))
  redis.call('ZADD', order, string.format('%.0f', now + keep), name)
  redis.call('HSET', sizes, name, size)
  bytes = bytes + size
end
bytes = math.max(0, bytes)
redis.call('SET', total, string.format('%.0f', bytes))
-- The books end a while after what they are about.
local till = string.format('%.0f', keep + 3600000)
for _, book in ipairs({order, sizes, total}) do
  if redis.call('PTTL', book) < keep + 60000 then redis.call('PEXPIRE', book, till) end
end
if not fits then return {2} end
return {1, evicted, string.format('%.0f', bytes)}
