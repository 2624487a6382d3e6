-- Remove a member. ARGV: channel, connection. Returns 1 if it was the last one of its user.
local member = read(ARGV[1], ARGV[2])
if not member then
  return 0
end
remove(ARGV[1], ARGV[2], member)
return redis.call('SCARD', user_of(ARGV[1], member.user)) == 0 and 1 or 0
