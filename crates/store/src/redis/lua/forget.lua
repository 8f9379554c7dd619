-- KEYS: the names of a session's streams of events. Removes them.
for _, stream in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  redis.call('DEL', stream, stream .. ':head')
end
redis.call('DEL', KEYS[1])
return 1
