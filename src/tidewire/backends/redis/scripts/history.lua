-- Read a channel. KEYS: those of the channel. ARGV: epoch if a new one begins, direction ('+' or '-'), offset that
-- bounds it ('': none), the epoch asked for ('': any), limit ('': none), size and age of the retention ('': all).
-- Returns epoch, top, the lowest offset that is shown (top + 1: none), and the entries.
local stream = KEYS[3]
local epoch, top, _, age = sound_position(generation(KEYS[1]), KEYS[2], stream, ARGV[1])
outlive(KEYS[2], age)

local function entry_from(offset)
  return redis.call('XRANGE', stream, text(offset), '+', 'COUNT', 1)[1]
end

local function offset_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- The lowest offset that is stored and that retention shows; times grow with offsets.
local function first_shown()
  local low = 0
  if ARGV[6] ~= '' then
    low = math.max(0, top - tonumber(ARGV[6]))
  end
  local entry = entry_from(low + 1)
  if not entry then
    return top + 1
  end
  local first = offset_of(entry)
  if ARGV[7] == '' then
    return first
  end
  local oldest = milliseconds() - tonumber(ARGV[7]) * 1000
  if (number_of(entry[2][2], 0) or 0) >= oldest then
    return first
  end
  local high = top + 1
  while first + 1 < high do
    local middle = math.floor((first + high) / 2)
    local found = entry_from(middle)
    if found and (number_of(found[2][2], 0) or 0) < oldest then
      first = offset_of(found)
    else
      high = middle
    end
  end
  return high
end

if ARGV[4] ~= '' and ARGV[4] ~= epoch then
  return {epoch, top, top + 1, {}}
end
local shown = first_shown()
local entries = {}
if ARGV[5] ~= '0' and shown <= top then
  local from, to
  if ARGV[2] == '+' then
    from, to = shown, top
    if ARGV[3] ~= '' then
      from = math.max(shown, tonumber(ARGV[3]) + 1)
    end
  else
    from, to = shown, top
    if ARGV[3] ~= '' then
      to = math.min(top, tonumber(ARGV[3]) - 1)
    end
  end
  if from <= to then
    local command = {'XRANGE', stream, text(from), text(to)}
    if ARGV[2] == '-' then
      command = {'XREVRANGE', stream, text(to), text(from)}
    end
    if ARGV[5] ~= '' then
      command[5], command[6] = 'COUNT', ARGV[5]
    end
    entries = redis.call(unpack(command))
  end
end
return {epoch, top, shown, entries}
