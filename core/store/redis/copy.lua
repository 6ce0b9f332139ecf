-- All rows of one moment, for an export that takes longer than that.
-- KEYS: about, rows, order, rows of the copy, order of the copy   ARGV: id, seconds that the copy lives
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('REPLACED this is another store')
end
redis.call('DEL', KEYS[4], KEYS[5])
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('COPY', KEYS[2], KEYS[4])
  redis.call('COPY', KEYS[3], KEYS[5])
  redis.call('EXPIRE', KEYS[4], ARGV[2])
  redis.call('EXPIRE', KEYS[5], ARGV[2])
end
local about = redis.call('HMGET', KEYS[1], 'commits', 'keys')
return { about[1], about[2] }
