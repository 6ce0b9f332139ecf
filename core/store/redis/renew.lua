-- Who holds these lives: for another lease.
-- KEYS: two of each (main, open)   ARGV: lease in ms, then two of each: claim, form
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[1])
local till = string.format('%.0f', now + lease)
for n = 1, (#ARGV - 1) / 2 do
  local id, form = ARGV[2 * n], ARGV[2 * n + 1]
  if form == 'places' then
    redis.call('ZADD', KEYS[2 * n - 1], 'XX', till, id)
    redis.call('PEXPIRE', KEYS[2 * n - 1], string.format('%.0f', 2 * lease + 86400000))
  else
    redis.call('ZADD', KEYS[2 * n], 'XX', till, id)
  end
end
return 1
