-- Prolong a lease, and look whether some of the node's members are still listed: an operator, or the server for want of
-- memory, may have removed keys. ARGV: name, milliseconds of a lease, how far the look has come.
-- Returns how far it has come now; 0: the lease was lost, or a member.
local now = milliseconds()
come(now, tonumber(ARGV[2]))
if not is_alive(ARGV[1]) then
  return 0
end
local ends = text(now + tonumber(ARGV[2]))
redis.call('ZADD', P .. 'leases', ends, ARGV[1])
redis.call('ZADD', P .. 'leases', 'XX', ends, aside_of(ARGV[1]))
local found = redis.call('SSCAN', P .. 'of:' .. ARGV[1], ARGV[3], 'COUNT', 200)
for _, one in ipairs(found[2]) do
  local channel, connection = from_place(one)
  local member = read(channel, connection)
  if not member or not redis.call('ZSCORE', order_of(channel), connection)
      or redis.call('SISMEMBER', user_of(channel, member.user), connection) == 0 then
    return 0
  end
end
return found[1]
