-- Claim departed users. ARGV: milliseconds of a lease, limit, members that one call looks at.
-- Returns token, channel, user, format and data of the announcement ('' both: none) of each.
local lease, limit, looks = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = milliseconds()
come(now, lease)
local answer = {}
local count = 0

local function tell(token, channel, user, format, announcement)
  count = count + 1
  for _, part in ipairs({token, channel, user, format, announcement}) do
    answer[#answer + 1] = part
  end
end

for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(now))) do
  redis.call('ZREM', P .. 'leases', node)
  redis.call('SADD', P .. 'dead', node)
end

-- Claims that were not forgotten within a lease.
local overdue = redis.call('ZRANGEBYSCORE', P .. 'claims', '-inf', text(now), 'LIMIT', 0, limit)
for _, token in ipairs(overdue) do
  local found = redis.call('HGET', P .. 'departed', token)
  redis.call('ZADD', P .. 'claims', text(now + lease), token)
  tell(token, unpack(cmsgpack.unpack(found)))
end

-- A user departs from a channel when all its connections there were on dead nodes.
local function depart(channel, user)
  local connections = redis.call('SMEMBERS', user_of(channel, user))
  local living, newest, format, announcement = 0, 0, '', ''
  for _, connection in ipairs(connections) do
    local member = read(channel, connection)
    if is_alive(member.node) then
      living = living + 1
    else
      local order = tonumber(redis.call('ZSCORE', order_of(channel), connection))
      if member.format ~= '' and order > newest then
        newest, format, announcement = order, member.format, member.announcement
      end
      remove(channel, connection, member)
    end
  end
  if living > 0 then
    return
  end
  local token = 'departed:' .. redis.call('INCR', P .. 'departures') .. ':' .. text(now)
  redis.call('HSET', P .. 'departed', token, cmsgpack.pack({channel, user, format, announcement}))
  redis.call('ZADD', P .. 'claims', text(now + lease), token)
  tell(token, channel, user, format, announcement)
end

for _, node in ipairs(redis.call('SMEMBERS', P .. 'dead')) do
  while count < limit and looks > 0 do
    local found = redis.call('SRANDMEMBER', P .. 'of:' .. node)
    if not found then
      redis.call('SREM', P .. 'dead', node)
      redis.call('SREM', P .. 'closed', node)
      break
    end
    looks = looks - 1
    local channel, connection = from_place(found)
    local member = read(channel, connection)
    if member and member.node == node then
      depart(channel, member.user)
    else
      redis.call('SREM', P .. 'of:' .. node, found)
    end
  end
end
return answer
