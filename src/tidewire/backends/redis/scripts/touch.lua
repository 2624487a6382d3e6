-- Prolong a lease; 0: it was lost. ARGV: name, milliseconds of a lease.
local now = milliseconds()
come(now, tonumber(ARGV[2]))
if not is_alive(ARGV[1]) then
  return 0
end
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), ARGV[1])
return 1
