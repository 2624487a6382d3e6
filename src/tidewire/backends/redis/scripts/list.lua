-- List the members of a channel in the order in which they joined: connection, user, info of each. ARGV: channel.
local answer = {}
for _, connection in ipairs(redis.call('ZRANGE', order_of(ARGV[1]), 0, -1)) do
  local member = read(ARGV[1], connection)
  if member and not is_closed(member.node) then
    answer[#answer + 1] = connection
    answer[#answer + 1] = member.user
    answer[#answer + 1] = member.info
  end
end
return answer
