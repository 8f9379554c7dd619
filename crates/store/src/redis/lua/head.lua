-- What every script begins with. A record is "1", its state ("o" or "d"), version, touched and expires as sixteen
-- hexadecimal digits each, and then JSON. Numbers are compared as numbers: Lua compares texts by locale.
local SIXTEEN = '(' .. string.rep('%x', 16) .. ')'
local HEADER = '^1([od])' .. SIXTEEN .. SIXTEEN .. SIXTEEN .. '$'
-- What a record outlasts its expiry by: clocks of the gateways differ, and `expires` decides.
local SLACK = 60000
-- A TTL that Redis takes on any clock: a hundred years.
local LONGEST = 3155760000000

local function number(hex)
  return tonumber(hex, 16)
end

local function hex(value)
  return string.format('%016x', value)
end

-- The header of what stands at the key; nil if nothing does that this release can read.
local function header(key)
  local state, version, touched, expires = string.match(redis.call('GETRANGE', key, 0, 49), HEADER)
  if not state then
    return nil
  end
  return { state = state, version = version, touched = touched, expires = number(expires) }
end

-- The version of a write at `now` over what has `last`, or over nothing.
local function next_version(last, now)
  return hex(math.max(last and number(last.version) + 1 or 0, now))
end

local function write(key, state, version, touched, expires, json, now)
  local ttl = math.min(math.max(expires - now, 0), LONGEST) + SLACK
  redis.call('SET', key, '1' .. state .. version .. touched .. hex(expires) .. json, 'PX', ttl)
end

