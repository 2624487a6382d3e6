-- Keep publications of some channels and deliver them. KEYS: the generation, then for each channel its meta hash, its stream
-- and one key for each idempotency key. ARGV: epoch if a new one begins; then for each channel the pub/sub channel, size
-- and age of the retention ('' leaves it), how many publications and idempotency keys there are, the bodies, and, if there
-- are such keys, for each publication the milliseconds that its key is known (0: it has none).
-- Returns for each channel its epoch and the offsets, or the error; one that says UNSURE came after something was kept.
local id = generation(KEYS[1])
local now = milliseconds()
local has_kept = false

-- Keep publications of one channel; `first_key` and `at` are the places before its idempotency keys and its bodies.
local function keep(meta, stream, deliver_by, size_asked, age_asked, count, first_key, at, is_keyed)
  local key = first_key
  local epoch, top, size, age, lowest, prolonged = position(id, meta, stream, ARGV[1])
  local longest = 0
  local answer = {epoch}
  local first = top + 1
  local delivered = {}
  for index = 1, count do
    local known, key_age = false, 0
    if is_keyed then
      key_age = tonumber(ARGV[at + count + index])
      if key_age > 0 then
        key = key + 1
        known = number_of(redis.pcall('GET', KEYS[key]), 1)
      end
    end
    if known and known <= top then  -- a larger one is of an epoch whose publications are gone
      answer[index + 1] = known
    else
      local body = ARGV[at + index]
      top = top + 1
      local offset = text(top)
      local added = redis.pcall('XADD', stream, offset .. '-0', 't', text(now), 'b', body)
      if is_damage(added) and not has_kept then  -- somebody else has changed the stream, or the top: a new epoch begins
        redis.call('DEL', meta, stream)
        return keep(meta, stream, deliver_by, size_asked, age_asked, count, first_key, at, is_keyed)
      elseif type(added) == 'table' and added.err then
        error(added)
      end
      has_kept = true
      if key_age > 0 then
        redis.call('SET', KEYS[key], offset, 'PX', text(key_age))
        longest = math.max(longest, key_age / 1000)
      end
      delivered[#delivered + 1] = struct.pack('>I4', #body)
      delivered[#delivered + 1] = body
      answer[index + 1] = top
    end
  end
  if #delivered == 0 then
    return answer
  end
  local changed = {'top', text(top)}
  local function change(name, value)
    changed[#changed + 1] = name
    changed[#changed + 1] = value
  end
  if size_asked ~= '' and (tonumber(size_asked) ~= size or tonumber(age_asked) ~= age) then
    size, age, prolonged = tonumber(size_asked), tonumber(age_asked), 0
    change('size', size)
    change('age', age)
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
    local time = number_of(entry[2][2], 0) or 0
    if time > now - 60000 or (next_lowest > top - size and time > now - age * 1000) then
      break
    end
    redis.call('XTRIM', stream, 'MINID', text(next_lowest))
    lowest = next_lowest
    change('lowest', text(lowest))
  end
  if math.abs(now - prolonged) >= 1000 then
    change('prolonged', text(now))
    redis.call('PEXPIRE', stream, text((math.max(age, 60) + 2) * 1000))
  end
  redis.call('HSET', meta, unpack(changed))
  if #changed > 2 or longest > age then
    outlive(meta, math.max(age, longest))
  end
  redis.call('PUBLISH', deliver_by,
    struct.pack('>I2', #epoch) .. epoch .. struct.pack('>I8I8', now, first) .. table.concat(delivered))
  return answer
end

local answers = {}
local key, at = 1, 1
while at < #ARGV do
  local count, keys = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  has_kept = false
  local is_done, answer = pcall(
    keep, KEYS[key + 1], KEYS[key + 2], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], count, key + 2, at + 5, keys > 0)
  if not is_done then
    local reason = type(answer) == 'table' and answer.err or tostring(answer)
    answer = {err = (has_kept and 'UNSURE ' or '') .. reason}
  end
  answers[#answers + 1] = answer
  key = key + 2 + keys
  at = at + 5 + count * (keys > 0 and 2 or 1)
end
return answers
