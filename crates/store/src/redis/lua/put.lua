-- KEYS: the record. ARGV: channel, key in the signal, now, expected version or '', state, expires, JSON, the
-- version of a record that the caller could not read and wants to replace, or ''.
-- Returns the new version; or {what stands there}; or nothing if a version was expected and nothing stands there.
local channel, name, now, expected, state = ARGV[1], ARGV[2], number(ARGV[3]), ARGV[4], ARGV[5]
local expires, json, unreadable = number(ARGV[6]), ARGV[7], ARGV[8]
local last = header(KEYS[1])
local touched = now
if last and last.expires > now and last.version ~= unreadable then
  if last.version ~= expected or (last.state == 'd' and state == 'o') then
    return { redis.call('GET', KEYS[1]) }
  end
  touched = math.max(touched, number(last.touched))
elseif expected ~= '' then
  return false
end
local version = next_version(last, now)
write(KEYS[1], state, version, hex(touched), expires, json, now)
redis.call('PUBLISH', channel, name .. ' ' .. version)
return version
