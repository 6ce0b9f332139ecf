-- What changed behind a commit, and a sign of life of the gateway that asks.
-- KEYS: about, log, alive
-- ARGV: id, seen, node (empty: none), milliseconds after which a node counts as gone, a lease, what the clock should show in ms
-- (0: nobody knows)
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('REPLACED this is another store')
end
local function text(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = 0
if ARGV[3] ~= '' then
  -- Nobody gave a sign for a while, and this server was away; or its clock was set. What follows from that stands in take.lua.
  local marks = redis.call('HMGET', KEYS[1], 'tick', 'after')
  local tick, after = tonumber(marks[1] or now), tonumber(marks[2] or 0)
  local expected, grace = tonumber(ARGV[6]), text(now + tonumber(ARGV[5]))
  if tick - now > 5000 then
    redis.pcall('HSET', KEYS[1], 'grace', grace, 'before', 0, 'after', 0, 'back', text(now))
    after = 0
  elseif now - tick > 5000 then
    redis.pcall('HSET', KEYS[1], 'grace', grace)
  end
  if expected > 0 and now - expected > 5000 and now - after > 10000 then
    redis.pcall('HSET', KEYS[1], 'before', text(expected), 'after', text(now))
  end
  -- A server that is full refuses these: what changed is told all the same.
  redis.pcall('HSET', KEYS[1], 'tick', text(now))
  redis.pcall('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[4]))
  redis.pcall('ZADD', KEYS[3], now, ARGV[3])
  alive = redis.call('ZCARD', KEYS[3])
end
local about = redis.call('HMGET', KEYS[1], 'commits', 'floor')
if tonumber(ARGV[2]) < tonumber(about[2] or '0') then
  return { about[1], alive, 1, {}, now }
end
return { about[1], alive, 0, redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf'), now }
