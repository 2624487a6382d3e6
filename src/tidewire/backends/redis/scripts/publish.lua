-- Keep publications of one channel and carry them. KEYS: those of the channel, then one for each idempotency key.
-- ARGV: pub/sub channel, epoch if a new one begins, size and age of the retention ('' leaves it), count, the bodies,
-- and, if there are idempotency keys, for each publication the milliseconds that its key is known (0: it has none).
local id = generation(KEYS[1])
local meta, stream = KEYS[2], KEYS[3]
local epoch, top, size, age, lowest = position(id, meta, stream, ARGV[2])
local now = milliseconds()
local count = tonumber(ARGV[5])
local keyed = #KEYS > 3
local used = 3
local longest = 0
local answer = {epoch}
local first = top + 1
local carried = {}
for index = 1, count do
  local known, key_age = false, 0
  if keyed then
    key_age = tonumber(ARGV[5 + count + index])
    if key_age > 0 then
      used = used + 1
      known = redis.call('GET', KEYS[used])
    end
  end
  if known then
    answer[index + 1] = tonumber(known)
  else
    local body = ARGV[5 + index]
    top = top + 1
    local offset = text(top)
    redis.call('XADD', stream, offset .. '-0', 't', text(now), 'b', body)
    if key_age > 0 then
      redis.call('SET', KEYS[used], offset, 'PX', text(key_age))
      longest = math.max(longest, key_age / 1000)
    end
    carried[#carried + 1] = struct.pack('>I4', #body)
    carried[#carried + 1] = body
    answer[index + 1] = top
  end
end
if #carried == 0 then
  return answer
end
if ARGV[3] ~= '' then
  size, age = tonumber(ARGV[3]), tonumber(ARGV[4])
end
-- Trimming goes in steps of about a node of the stream; nothing that is younger than 60 s goes.
for _ = 1, math.floor(count / 50) + 1 do
  local next_lowest = lowest + 100
  if next_lowest > top then
    break
  end
  local entry = redis.call('XRANGE', stream, text(next_lowest), '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local time = tonumber(entry[2][2])
  if time > now - 60000 or (next_lowest > top - size and time > now - age * 1000) then
    break
  end
  redis.call('XTRIM', stream, 'MINID', text(next_lowest))
  lowest = next_lowest
end
redis.call('HSET', meta, 'generation', id, 'epoch', epoch, 'top', text(top), 'size', size, 'age', age,
  'lowest', text(lowest))
outlive(meta, math.max(age, longest))
redis.call('PEXPIRE', stream, text((math.max(age, 60) + 1) * 1000))
redis.call('PUBLISH', ARGV[1],
  struct.pack('>I2', #epoch) .. epoch .. struct.pack('>I8I8', now, first) .. table.concat(carried))
return answer
