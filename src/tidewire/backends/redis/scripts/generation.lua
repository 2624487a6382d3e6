-- Say which generation of the store this is. KEYS: generation. ARGV: a new one, and '1' if a restart loses nothing.
-- A server that starts, or becomes the primary, may have less than was acknowledged: it begins a new generation. One
-- that has been a replica has a second replication id. All scripts read the key, so all nodes agree.
local server = redis.call('INFO', 'server')
local replication = redis.call('INFO', 'replication')
local run = string.match(server, 'run_id:(%x+)')
local second = string.match(replication, 'master_replid2:(%x+)')
if string.match(second, '^0+$') then
  second = ''
else
  second = ':' .. string.match(replication, 'master_replid:(%x+)')
end
local found = redis.pcall('HMGET', KEYS[1], 'id', 'server')
if found.err then  -- another program has put something else there
  redis.call('DEL', KEYS[1])
  found = {}
end
local id = found[1]
if not id or (found[2] ~= run .. second and (ARGV[2] ~= '1' or second ~= '')) then
  id = ARGV[1]
end
if id ~= found[1] or found[2] ~= run .. second then
  redis.call('HSET', KEYS[1], 'id', id, 'server', run .. second)
end
return {id, run}
