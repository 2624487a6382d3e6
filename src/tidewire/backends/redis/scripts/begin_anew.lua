-- Remove everything: another program has put something else under one of the keys. Nodes take new leases then, and their
-- members join again.
for _, key in ipairs(redis.call('KEYS', (string.gsub(P, '[%[%]%*%?%^\\]', '\\%0')) .. '*')) do
  redis.call('DEL', key)
end
return 1
