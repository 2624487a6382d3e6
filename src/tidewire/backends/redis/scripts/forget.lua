-- Forget claims. ARGV: tokens.
for _, token in ipairs(ARGV) do
  redis.call('ZREM', P .. 'claims', token)
  redis.call('HDEL', P .. 'departed', token)
end
return 1
