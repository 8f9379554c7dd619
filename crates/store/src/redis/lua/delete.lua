-- KEYS: the record. ARGV: channel, key in the signal, now, when the tombstone expires, and for that of a missing
-- record route and principal.
-- Returns what stood there, if it had not expired.
local function digits(text, length)
  return type(text) == 'string' and #text == length and not string.find(text, '%X')
end

local channel, name, now, expires = ARGV[1], ARGV[2], number(ARGV[3]), number(ARGV[4])
local kind, route, principal, created = 'issued', ARGV[5], ARGV[6], now
local last, stood = header(KEYS[1]), false
if last and last.expires > now then
  stood = redis.call('GET', KEYS[1])
  local read, record = pcall(cjson.decode, string.sub(stood, 51))
  if read and type(record) == 'table' and type(record.created) == 'number'
    and digits(record.route, 16) and digits(record.principal, 32) then
    if last.state == 'd' and last.expires >= expires then
      return stood
    end
    if record.kind == 'keyed' then
      kind = 'keyed'
    end
    route, principal, created = record.route, record.principal, record.created
    expires = math.max(expires, last.expires)
  end
end
local json = string.format(
  '{"kind":"%s","route":"%s","principal":"%s","created":%.0f,"expires":%.0f,"state":"deleted"}',
  kind, route, principal, created, expires)
local version = next_version(last, now)
write(KEYS[1], 'd', version, hex(now), expires, json, now)
redis.call('PUBLISH', channel, name .. ' ' .. version)
return stood
