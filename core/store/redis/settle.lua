-- What became of claims: what was not used goes back, what was spent is spent. A batch that comes twice counts once.
-- KEYS: the sender's last batch, then three of each counter (main, open, done)
-- ARGV: number of the batch, then five of each: claim, form, had, used, seconds to keep
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local MINUTE, MOST, DAY, MOST_DONE = 60000, 9000000000000000, 86400, 1000

local function text(number)
  return string.format('%.0f', number)
end

local function level(units)
  return math.min(units * MINUTE, MOST)
end

local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', DAY)
local settle = {}

function settle.bucket(key, _, had, used)
  local state = redis.call('HMGET', key[1], 'level', 'at')
  local held = math.max(0, tonumber(state[1] or 0) - level(had)) + level(used)
  redis.call('HSET', key[1], 'level', text(math.min(held, MOST)), 'at', state[2] or text(now))
  redis.call('EXPIRE', key[1], DAY)
end

function settle.sum(key, _, had, used, keep)
  local sum = math.max(0, tonumber(redis.call('GET', key[1]) or 0) - had) + used
  redis.call('SET', key[1], text(sum))
  if keep ~= '0' then redis.call('EXPIRE', key[1], keep) end
end

function settle.places(key, id)
  redis.call('ZREM', key[1], id)
end

function settle.money(key, id, _, used, keep)
  local state = redis.call('HMGET', key[1], 'spent', 'reserved', 'h:' .. id)
  local spent, reserved = tonumber(state[1] or 0), tonumber(state[2] or 0)
  if state[3] then
    reserved = math.max(0, reserved - tonumber(state[3]))
    redis.call('HDEL', key[1], 'h:' .. id)
    redis.call('ZREM', key[2], id)
  elseif redis.call('ZSCORE', key[3], id) then
    return
  end
  -- Also of one whose lease had ended: it was spent all the same.
  redis.call('HSET', key[1], 'spent', text(math.min(spent + used, MOST)), 'reserved', text(reserved))
  redis.call('ZADD', key[3], text(now), id)
  local extra = redis.call('ZCARD', key[3]) - MOST_DONE
  if extra > 0 then redis.call('ZREMRANGEBYRANK', key[3], 0, extra - 1) end
  if keep ~= '0' then
    redis.call('EXPIRE', key[1], keep)
    redis.call('EXPIRE', key[3], keep)
  end
end

-- Money of a claim of which nothing came: it may come again under the same name, so nothing is done for good.
function settle.release(key, id)
  local state = redis.call('HMGET', key[1], 'reserved', 'h:' .. id)
  if state[2] then
    redis.call('HSET', key[1], 'reserved', text(math.max(0, tonumber(state[1] or 0) - tonumber(state[2]))))
    redis.call('HDEL', key[1], 'h:' .. id)
    redis.call('ZREM', key[2], id)
  end
end

for n = 1, (#ARGV - 1) / 5 do
  local at = 5 * n - 3
  local key = { KEYS[3 * n - 1], KEYS[3 * n], KEYS[3 * n + 1] }
  settle[ARGV[at + 1]](key, ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4])
end
return 1
