-- Makes an empty store ours, once.
-- KEYS: about, rows   ARGV: layout, a fresh id
local id = redis.call('HGET', KEYS[1], 'id')
if not id then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    return redis.error_reply('ERR there are rows under this prefix, and nothing says which gateway made them')
  end
  redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'id', ARGV[2], 'commits', '0', 'keys', '0', 'floor', '0')
  id = ARGV[2]
end
local about = redis.call('HMGET', KEYS[1], 'layout', 'commits')
return { about[1], id, about[2] }
