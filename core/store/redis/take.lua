-- All that a claim wants, of all its counters, or nothing; by this server's clock. The arithmetic is that of core/limit/gcra.rs,
-- window.rs and budget.rs, in whole numbers that a double holds exactly.
-- KEYS: about, then three of each counter (main, open, done)
-- ARGV: claim, lease in ms, what the clock should show in ms (0: nobody knows), then six of each want: form, bound, has, wants,
-- '1' for a shadow, seconds to keep (0: for ever)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local MINUTE, DAY, MOST, MOST_RATE = 60000, 86400000, 9000000000000000, 150000000000
local id, lease = ARGV[1], tonumber(ARGV[2])
local WAIT, TOO_MUCH, REACHED, HELD, SPENT = 1, 2, 3, 4, 5

local function text(number)
  return string.format('%.0f', number)
end

local function ceil(a, b)
  local rest = math.fmod(a, b)
  local whole = (a - rest) / b
  if rest > 0 then whole = whole + 1 end
  return whole
end

local function level(units)
  return math.min(units * MINUTE, MOST)
end

-- While this server was away nobody could renew anything: leases that ended meanwhile are given time. The same where its clock was
-- set. Forward: who waits for time to pass gets what passed, and no more. Back: leases from before end late, so those that
-- nobody renews from here on are let go when they have been given time.
local marks = redis.call('HMGET', KEYS[1], 'tick', 'grace', 'before', 'after', 'back')
local tick, grace = tonumber(marks[1] or now), tonumber(marks[2] or 0)
local before, after, back = tonumber(marks[3] or 0), tonumber(marks[4] or 0), tonumber(marks[5] or 0)
local expected, given = tonumber(ARGV[3]), grace
if tick - now > 5000 then
  grace, before, after, back = now + lease, 0, 0, now
  redis.call('HSET', KEYS[1], 'grace', text(grace), 'tick', text(now), 'before', 0, 'after', 0, 'back', text(back))
elseif now - tick > 5000 then
  grace = now + lease
end
if expected > 0 and now - expected > 5000 and now - after > 10000 then
  before, after = expected, now
  redis.call('HSET', KEYS[1], 'before', text(before), 'after', text(after))
end
local lets_go = now > grace
local late = back > 0 and now >= back and now - back < DAY and text(now + 2 * lease)

-- What a counter says, and what is to be written if all agree.
local judge = {}

function judge.bucket(key, bound, more)
  local rate = math.max(1, math.min(bound, MOST_RATE))
  local state = redis.call('HMGET', key[1], 'level', 'at')
  local held, at = tonumber(state[1] or 0), tonumber(state[2] or 0)
  if at > now then
    at = now
    redis.call('HSET', key[1], 'at', text(at))
  elseif at > 0 and at <= before and now >= after then
    at = math.min(now, at + after - before)
    redis.call('HSET', key[1], 'at', text(at))
  end
  local passed = math.min(math.max(0, now - at), ceil(held, rate))
  held = math.max(0, held - passed * rate)
  local wanted, capacity = level(more), level(rate)
  if wanted > capacity then return TOO_MUCH, 0, held, rate end
  local over = math.max(0, held - (capacity - wanted))
  if over > 0 then return WAIT, ceil(over, rate), held, rate end
  return 0, 0, held + wanted, rate
end

function judge.sum(key, bound, more)
  local used = tonumber(redis.call('GET', key[1]) or 0)
  if used + more > bound then return REACHED, 0, used, 0 end
  return 0, 0, used + more, 0
end

function judge.places(key, bound, more)
  if lets_go then redis.call('ZREMRANGEBYSCORE', key[1], '-inf', now) end
  if lets_go and late then redis.call('ZREMRANGEBYSCORE', key[1], '(' .. late, '+inf') end
  local count = redis.call('ZCARD', key[1])
  if more == 0 or redis.call('ZSCORE', key[1], id) then return 0, 0, count, 0 end
  if count >= bound then return REACHED, 0, count, 0 end
  return 0, 0, count + 1, 1
end

function judge.money(key, bound, _, wants)
  local ended = {}
  if lets_go then ended = redis.call('ZRANGEBYSCORE', key[2], '-inf', now, 'LIMIT', 0, 1000) end
  if lets_go and late then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', key[2], '(' .. late, '+inf', 'LIMIT', 0, 1000)) do
      ended[#ended + 1] = other
    end
  end
  local state = redis.call('HMGET', key[1], 'spent', 'reserved', 'h:' .. id)
  local spent, reserved, has = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
  for _, other in ipairs(ended) do
    local amount = tonumber(redis.call('HGET', key[1], 'h:' .. other) or 0)
    reserved = math.max(0, reserved - amount)
    if other == id then has = 0 end
    redis.call('HDEL', key[1], 'h:' .. other)
    redis.call('ZREM', key[2], other)
  end
  if #ended > 0 then redis.call('HSET', key[1], 'reserved', text(reserved)) end
  local more = math.max(0, wants - has)
  if more > math.max(0, bound - spent - reserved) then
    if wants <= math.max(0, bound - spent) then return HELD, 0, spent + reserved, 0 end
    return SPENT, 0, spent + reserved, 0
  end
  return 0, 0, spent + reserved + more, { reserved + more, math.max(has, wants) }
end

local plans = {}
for n = 1, (#ARGV - 3) / 6 do
  local at = 6 * n - 2
  local form, bound, has, wants = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local key = { KEYS[3 * n - 1], KEYS[3 * n], KEYS[3 * n + 1] }
  local why, wait, used, note = judge[form](key, bound, math.max(0, wants - has), wants)
  if why ~= 0 and ARGV[at + 4] ~= '1' then
    return { 0, n, why, wait, now }
  end
  plans[n] = { form = form, key = key, why = why, wait = wait, used = used, note = note, bound = bound, keep = ARGV[at + 5] }
end

if grace > given then
  redis.call('HSET', KEYS[1], 'grace', text(grace), 'tick', text(now))
end
-- Of each: what is left, until all is, why a shadow took nothing, how long it would wait; and the moment.
local answer = { 1 }
for _, plan in ipairs(plans) do
  local key, used, full = plan.key, plan.used, 0
  local left = math.max(0, plan.bound - used)
  local fits = plan.why == 0
  if plan.form == 'bucket' then
    full = ceil(used, plan.note > 0 and plan.note or 1)
    left = math.floor(math.max(0, level(math.min(plan.bound, MOST_RATE)) - used) / MINUTE)
    if fits then
      redis.call('HSET', key[1], 'level', text(used), 'at', text(now))
      -- Long after it is empty: a clock that is set forward ends what expires.
      redis.call('PEXPIRE', key[1], DAY)
    end
  elseif fits and plan.form == 'sum' then
    redis.call('SET', key[1], text(used))
    if plan.keep ~= '0' then redis.call('EXPIRE', key[1], plan.keep) end
  elseif fits and plan.form == 'places' then
    if plan.note == 1 then
      redis.call('ZADD', key[1], text(now + lease), id)
      redis.call('PEXPIRE', key[1], text(2 * lease + DAY))
    end
  elseif fits and plan.note[2] > 0 then
    redis.call('HSET', key[1], 'reserved', text(plan.note[1]), 'h:' .. id, text(plan.note[2]))
    redis.call('ZADD', key[2], text(now + lease), id)
    if plan.keep ~= '0' then
      redis.call('EXPIRE', key[1], plan.keep)
      redis.call('EXPIRE', key[2], plan.keep)
    end
  end
  answer[#answer + 1] = left
  answer[#answer + 1] = full
  answer[#answer + 1] = plan.why
  answer[#answer + 1] = plan.wait
end
answer[#answer + 1] = now
return answer
