-- What every script of a channel begins with. KEYS: generation, meta, stream of the channel.

-- 2^53 has more digits than tostring shows
local function text(number)
  return string.format('%.0f', number)
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function generation(key)
  local found = redis.call('HGET', key, 'id')
  if not found then
    error('TIDEWIRE the generation is not known')
  end
  return found
end

-- Return a channel's epoch, top, size, age, lowest offset, and when its life was prolonged. Where the generation is another than the one in which the
-- channel was last used, its offsets go on in a new epoch. A channel that is not known, or not whole, begins one.
local function position(id, meta, stream, candidate)
  local found = redis.call('HMGET', meta, 'generation', 'epoch', 'top', 'size', 'age', 'lowest',
    'prolonged')
  local size, age = tonumber(found[4] or 100), tonumber(found[5] or 86400)
  local top, lowest = tonumber(found[3] or 0), tonumber(found[6] or 1)
  if found[1] == id and found[2] and found[3] then
    return found[2], top, size, age, lowest, tonumber(found[7] or 0)
  end
  redis.call('HSET', meta, 'generation', id, 'epoch', candidate, 'top', text(top), 'size', size, 'age', age,
    'lowest', text(lowest))
  if not found[1] or not found[3] then
    redis.call('DEL', stream)
  end
  return candidate, top, size, age, lowest, 0
end

-- A channel that nobody uses is forgotten after a day more than it shows; who returns later is told by its epoch.
local function outlive(meta, age)
  local wanted = (age + 86400) * 1000
  if redis.call('PTTL', meta) < wanted - 3600000 then
    redis.call('PEXPIRE', meta, text(wanted))
  end
end
