-- What changed behind a commit, and a sign of life of the gateway that asks.
-- KEYS: about, log, alive   ARGV: id, seen, node (empty: none), milliseconds after which a node counts as gone, a lease
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('REPLACED this is another store')
end
local alive = 0
if ARGV[3] ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  -- Nobody gave a sign for a while: this server was away, and leases that ended meanwhile are given time (take.lua).
  local tick = redis.call('HGET', KEYS[1], 'tick')
  if tick and now - tonumber(tick) > 5000 then
    redis.pcall('HSET', KEYS[1], 'grace', string.format('%.0f', now + tonumber(ARGV[5])))
  end
  -- A server that is full refuses these: what changed is told all the same.
  redis.pcall('HSET', KEYS[1], 'tick', string.format('%.0f', now))
  redis.pcall('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[4]))
  redis.pcall('ZADD', KEYS[3], now, ARGV[3])
  alive = redis.call('ZCARD', KEYS[3])
end
local about = redis.call('HMGET', KEYS[1], 'commits', 'floor')
if tonumber(ARGV[2]) < tonumber(about[2] or '0') then
  return { about[1], alive, 1, {} }
end
return { about[1], alive, 0, redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf') }
