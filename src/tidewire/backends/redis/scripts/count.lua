-- Count the members of a channel, or those of one user. ARGV: channel, then the user, if any.
if ARGV[2] then
  return redis.call('SCARD', user_of(ARGV[1], ARGV[2]))
end
return redis.call('HLEN', members_of(ARGV[1]))
