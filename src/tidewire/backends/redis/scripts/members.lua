-- What every script of presence begins with. KEYS: the prefix of all its keys, which are in one slot.
--   leases       node -> when its lease ends           nodes, joins     counters
--   claims       token -> when a claim may be claimed again             departed         token -> what it says
--   of:NODE      members of a node                     beat             when somebody last came
--   members:C    connection -> member of channel C     order:C      
--   user:C:U     connections of user U in channel C    dead             nodes whose members are still to be claimed
--   closed       nodes that were closed: their members are not listed
local P = KEYS[1]

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local function members_of(channel)
  return P .. 'members:' .. channel
end

local function order_of(channel)
  return P .. 'order:' .. channel
end

local function user_of(channel, user)
  return P .. 'user:' .. #channel .. ':' .. channel .. ':' .. user
end

local function place(channel, connection)
  return #channel .. ':' .. channel .. connection
end

local function from_place(found)
  local size, rest = string.match(found, '^(%d+):(.*)$')
  return string.sub(rest, 1, tonumber(size)), string.sub(rest, tonumber(size) + 1)
end

local function read(channel, connection)
  local found = redis.call('HGET', members_of(channel), connection)
  return found and cmsgpack.unpack(found)
end

local function remove(channel, connection, member)
  redis.call('HDEL', members_of(channel), connection)
  redis.call('ZREM', order_of(channel), connection)
  redis.call('SREM', user_of(channel, member.user), connection)
  redis.call('SREM', P .. 'of:' .. member.node, place(channel, connection))
end

-- The node of the members of another that were set aside.
local function aside_of(node)
  return node .. ':aside'
end

local function is_alive(node)
  return redis.call('ZSCORE', P .. 'leases', node) ~= false
end

local function is_closed(node)
  return redis.call('SISMEMBER', P .. 'closed', node) == 1
end

-- Nobody could prolong a lease while the store was away: after a silence each one has a whole lease to come back.
local function come(now, lease)
  local beat = tonumber(redis.call('GET', P .. 'beat')) or now
  if now - beat > lease / 2 or now < beat then
    for _, node in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
      redis.call('ZADD', P .. 'leases', 'XX', text(now + lease), node)
    end
  end
  redis.call('SET', P .. 'beat', text(now))
end
