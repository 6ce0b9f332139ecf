-- Who is there: layout and id of the store, nothing when it is empty. Changes nothing, and fails on a replica.
-- KEYS: about
redis.call('HDEL', KEYS[1], 'probe')
local about = redis.call('HMGET', KEYS[1], 'layout', 'id', 'commits')
return { about[1] or '', about[2] or '', about[3] or '0' }
