-- KEYS: a stream of events; its head is beside it. ARGV: now, the number of the stream's last event as the caller knows it,
-- until when it is kept, how many events, how many bytes, above which number all stay, the name of the stream, the
-- channel of news, the key of the session's streams, and payloads. A head is first, last, bytes and until.
-- Returns 1, the number of the last event, and how many bytes there are; or 0 and that number if it is another than the caller's.
local stream, head_key = KEYS[1], KEYS[1] .. ':head'
local now, after, till = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_bytes, above = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local name, channel, session = ARGV[7], ARGV[8], ARGV[9]
local function whole(value)
  return string.format('%.0f', value)
end
local head = redis.call('HMGET', head_key, 'first', 'last', 'bytes', 'until')
local first, last, bytes = after + 1, after, 0
if head[4] and tonumber(head[4]) > now then
  first, last, bytes = tonumber(head[1]), tonumber(head[2]), tonumber(head[3])
  if last ~= after then
    return { 0, whole(last) }
  end
else
  redis.call('DEL', stream, head_key)
end
for at = 10, #ARGV do
  last = last + 1
  bytes = bytes + #ARGV[at]
  redis.call('XADD', stream, whole(last) .. '-1', 'p', ARGV[at])
end
local from = first
while first < last and first <= above and (last + 1 - first > most or bytes > most_bytes) do
  local oldest = redis.call('XRANGE', stream, whole(first) .. '-1', whole(first) .. '-1')
  bytes = bytes - (oldest[1] and #oldest[1][2][2] or 0)
  first = first + 1
end
if first > from then
  redis.call('XTRIM', stream, 'MINID', whole(first) .. '-1')
end
redis.call('HSET', head_key, 'first', whole(first), 'last', whole(last), 'bytes', whole(bytes), 'until', whole(till))
local ttl = whole(math.min(math.max(till - now, 0), LONGEST) + SLACK)
redis.call('PEXPIRE', stream, ttl)
redis.call('PEXPIRE', head_key, ttl)
redis.call('SADD', session, stream)
redis.call('PEXPIRE', session, ttl)
-- Only where another gateway waits for it.
if #ARGV > 9 and redis.call('EXISTS', stream .. ':tail') == 1 then
  redis.call('PUBLISH', channel, name)
end
return { 1, whole(last), whole(bytes) }
