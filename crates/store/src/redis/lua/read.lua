-- KEYS: a stream of events; its head is beside it. ARGV: now, above which number, how many bytes, or so.
-- Returns the number of the last event, until when it is kept, and then, by twos, numbers and payloads; nothing if nothing is known of it.
local stream = KEYS[1]
local now, limit = tonumber(ARGV[1]), tonumber(ARGV[3])
local head = redis.call('HMGET', stream .. ':head', 'last', 'until')
if not head[2] or tonumber(head[2]) <= now then
  return false
end
local found = { head[1], head[2] }
local from = '(' .. ARGV[2] .. '-1'
while true do
  local some = redis.call('XRANGE', stream, from, '+', 'COUNT', 16)
  for _, entry in ipairs(some) do
    local payload = entry[2][2]
    if #found > 2 and #payload > limit then
      return found
    end
    limit = limit - #payload
    found[#found + 1] = string.match(entry[1], '^%d+')
    found[#found + 1] = payload
    from = '(' .. entry[1]
  end
  if #some < 16 then
    return found
  end
end
