-- Add or replace a member. ARGV: node, channel, connection, user, info, then format and data of the announcement, if any.
-- Returns how many other connections the user had, and how many it has now; false if the node has no lease.
local node, channel, connection, user = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not is_alive(node) then
  return false
end
local old = read(channel, connection)
if old then
  redis.call('SREM', user_of(channel, old.user), connection)
  redis.call('SREM', P .. 'of:' .. old.node, place(channel, connection))
end
if not redis.call('ZSCORE', order_of(channel), connection) then
  redis.call('ZADD', order_of(channel), redis.call('INCR', P .. 'joins'), connection)
end
local others = redis.call('SMEMBERS', user_of(channel, user))
local now = 1
for _, other in ipairs(others) do
  local member = read(channel, other)
  if member and (is_closed(member.node) or not is_alive(member.node)) then
    remove(channel, other, member)
  else
    now = now + 1
  end
end
local member = {node = node, user = user, info = ARGV[5], format = ARGV[6], announcement = ARGV[7]}
redis.call('HSET', members_of(channel), connection, cmsgpack.pack(member))
redis.call('SADD', user_of(channel, user), connection)
redis.call('SADD', P .. 'of:' .. node, place(channel, connection))
return {#others, now}
