-- A batch of rows, whole or not at all, if the rows that are expected are as expected.
-- KEYS: about, rows, order, log
-- ARGV: id, channel, tags of tables whose changes are told, tag of keys, most entries of the log,
--       how many rows are expected, then three of each (key, '1' or '0' for absent, value), then three of each change
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return redis.error_reply('REPLACED this is another store')
end
local at = 7
for _ = 1, tonumber(ARGV[6]) do
  local held = redis.call('HGET', KEYS[2], ARGV[at])
  if ARGV[at + 1] == '0' then
    if held then return 0 end
  elseif held ~= ARGV[at + 2] then
    return 0
  end
  at = at + 3
end
-- First what a full server refuses, so that nothing is done by half.
local commits = redis.call('HINCRBY', KEYS[1], 'commits', 1)
local keys, told = false, false
for i = at, #ARGV, 3 do
  local key = ARGV[i]
  if ARGV[i + 1] == '1' then
    redis.call('HSET', KEYS[2], key, ARGV[i + 2])
    redis.call('ZADD', KEYS[3], 0, key)
  else
    redis.call('HDEL', KEYS[2], key)
    redis.call('ZREM', KEYS[3], key)
  end
  local tag = string.sub(key, 1, 1)
  keys = keys or tag == ARGV[4]
  if string.find(ARGV[3], tag, 1, true) then
    told = true
    redis.call('ZADD', KEYS[4], commits, key)
  end
end
if keys then
  redis.call('HINCRBY', KEYS[1], 'keys', 1)
end
if told then
  -- Who has not read what is cut off reads everything anew.
  local extra = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[5])
  if extra > 0 then
    local last = redis.call('ZRANGE', KEYS[4], extra - 1, extra - 1, 'WITHSCORES')
    redis.call('HSET', KEYS[1], 'floor', last[2])
    redis.call('ZREMRANGEBYRANK', KEYS[4], 0, extra - 1)
  end
  -- A hint: who misses it looks by itself.
  redis.pcall('PUBLISH', ARGV[2], tostring(commits))
end
return commits
