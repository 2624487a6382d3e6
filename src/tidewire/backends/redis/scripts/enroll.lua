-- Give a node a lease under a new name, which is returned. ARGV: node, milliseconds of a lease.
local now = milliseconds()
come(now, tonumber(ARGV[2]))
local name = ARGV[1] .. ':' .. redis.call('INCR', P .. 'nodes')
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), name)
return name
