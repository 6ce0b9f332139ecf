-- Rows in the order of their keys' bytes: at most so many, and no more bytes than that (but one row at least).
-- KEYS: rows, order   ARGV: from, to (as ZRANGEBYLEX wants them), most rows, most bytes
local found = {}
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local size = 0
for at = 1, #keys do
  local value = redis.call('HGET', KEYS[1], keys[at])
  if value then
    size = size + #keys[at] + #value
    if size > tonumber(ARGV[4]) and #found > 0 then break end
    found[#found + 1] = keys[at]
    found[#found + 1] = value
  end
end
return found
