-- List a member no longer: a closed node, beside its own, holds it. ARGV: node, channel, connection, milliseconds of a lease.
local node, channel, connection = aside_of(ARGV[1]), ARGV[2], ARGV[3]
local member = read(channel, connection)
if not member then
  return 0
end
redis.call('ZADD', P .. 'leases', text(milliseconds() + tonumber(ARGV[4])), node)
redis.call('SADD', P .. 'closed', node)
redis.call('SREM', P .. 'of:' .. member.node, place(channel, connection))
member.node = node
redis.call('HSET', members_of(channel), connection, cmsgpack.pack(member))
redis.call('SADD', P .. 'of:' .. node, place(channel, connection))
return 1
