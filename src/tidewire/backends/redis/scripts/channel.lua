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
  local found = redis.pcall('HGET', key, 'id')
  if not found or type(found) == 'table' then
    error('TIDEWIRE the generation is not known')
  end
  return found
end

-- Return a number that is at least `least`; nil: it is none.
local function number_of(value, least)
  local number = tonumber(value)
  return number and number >= least and number <= 2 ^ 53 and number or nil
end

-- Return whether an error says that a key is no longer what these scripts made of it.
local function is_damage(answer)
  local said = type(answer) == 'table' and answer.err
  return said and (string.find(said, 'WRONGTYPE', 1, true) or string.find(said, 'ID specified in XADD', 1, true)
    or string.find(said, 'exhausted the last possible ID', 1, true))
end

-- Return a channel's epoch, top, size, age, lowest offset, and when its life was prolonged. Where the generation is another than the one in which the
-- channel was last used, its offsets go on in a new epoch. A channel that is not known, or not whole, begins one.
local function position(id, meta, stream, candidate)
  local found = redis.pcall('HMGET', meta, 'generation', 'epoch', 'top', 'size', 'age', 'lowest',
    'prolonged')
  if is_damage(found) then
    redis.call('DEL', meta)
    found = {}
  elseif found.err then
    error(found)
  end
  local size, age = number_of(found[4], 0) or 100, number_of(found[5], 0) or 86400
  local known, lowest = number_of(found[3], 0), number_of(found[6], 1) or 1
  if known and known ~= math.floor(known) then
    known = nil
  end
  if found[1] == id and found[2] and known then
    return found[2], known, size, age, lowest, number_of(found[7], 0) or 0
  end
  local top = known or 0
  redis.call('HSET', meta, 'generation', id, 'epoch', candidate, 'top', text(top), 'size', size, 'age', age,
    'lowest', text(lowest))
  if not found[1] or not known then
    redis.call('DEL', stream)
  end
  return candidate, top, size, age, lowest, 0
end

-- Return what `position` does, of a channel whose stream holds nothing that its top does not count; where it does, or is
-- no stream, somebody else has changed it, and a new epoch begins.
local function sound_position(id, meta, stream, candidate)
  local epoch, top, size, age, lowest, prolonged = position(id, meta, stream, candidate)
  local beyond = redis.pcall('XRANGE', stream, text(top) .. '-1', '+', 'COUNT', 1)
  if is_damage(beyond) or beyond[1] then
    redis.call('DEL', meta, stream)
    return position(id, meta, stream, candidate)
  end
  return epoch, top, size, age, lowest, prolonged
end

-- A channel that nobody uses is forgotten after a day more than it shows; who returns later is told by its epoch.
local function outlive(meta, age)
  local wanted = (age + 86400) * 1000
  if redis.call('PTTL', meta) < wanted - 3600000 then
    redis.call('PEXPIRE', meta, text(wanted))
  end
end
