-- List the members of a node no longer; they depart when its lease has ended. ARGV: name.
if redis.call('EXISTS', P .. 'of:' .. ARGV[1]) == 1 then
  redis.call('SADD', P .. 'closed', ARGV[1])
else
  redis.call('ZREM', P .. 'leases', ARGV[1])
end
return 1
