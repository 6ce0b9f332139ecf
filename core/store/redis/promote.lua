-- Rows that were brought in take the place of those that are there, which go aside. No gateway may be running.
-- KEYS: about, rows, order, log, alive, new rows, new order, rows aside, order aside
-- ARGV: id until now, id from now on, commits, changes of keys, milliseconds after which a node counts as gone, layout
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('REPLACED this is another store')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[5]))
if redis.call('ZCARD', KEYS[5]) > 0 then
  return 0
end
local commits = math.max(tonumber(redis.call('HGET', KEYS[1], 'commits') or '0') + 1, tonumber(ARGV[3]))
local keys = math.max(tonumber(redis.call('HGET', KEYS[1], 'keys') or '0') + 1, tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'layout', ARGV[6], 'id', ARGV[2], 'floor', string.format('%d', commits),
  'commits', string.format('%d', commits), 'keys', string.format('%d', keys))
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[8])
  redis.call('RENAME', KEYS[3], KEYS[9])
end
redis.call('DEL', KEYS[4])
if redis.call('EXISTS', KEYS[6]) == 1 then
  redis.call('RENAME', KEYS[6], KEYS[2])
  redis.call('RENAME', KEYS[7], KEYS[3])
  redis.call('PERSIST', KEYS[2])
  redis.call('PERSIST', KEYS[3])
end
return 1
