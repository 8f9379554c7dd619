-- KEYS: a key of no session. ARGV: channel. Whether a script may write and announce here; an empty signal says
-- nothing to those who hear it.
redis.call('SET', KEYS[1], '1', 'PX', 60000)
redis.call('PUBLISH', ARGV[1], '')
return 1
