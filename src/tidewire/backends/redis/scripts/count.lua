-- Count the members of a channel, or those of one user. ARGV: channel, then the user, if any.
local channel, user = ARGV[1], ARGV[2]
if redis.call('EXISTS', P .. 'closed') == 0 then
  return user and redis.call('SCARD', user_of(channel, user)) or redis.call('HLEN', members_of(channel))
end
local count = 0
for _, connection in ipairs(user and redis.call('SMEMBERS', user_of(channel, user)) or redis.call('HKEYS', members_of(channel))) do
  local member = read(channel, connection)
  if member and not is_closed(member.node) then
    count = count + 1
  end
end
return count
