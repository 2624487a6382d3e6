-- Bound the bytes of a channel: the oldest go, the newest stays. KEYS: those of the channel. ARGV: epoch if a new one
-- begins, bytes. Returns the lowest offset that is kept, 0 if nothing went.
local stream = KEYS[3]
sound_position(generation(KEYS[1]), KEYS[2], stream, ARGV[1])
local left, last, newer = tonumber(ARGV[2]), '+', nil
while true do
  local entries = redis.call('XREVRANGE', stream, last, '-', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    left = left - #(entry[2][4] or '') - 64
    local offset = tonumber(string.match(entry[1], '^%d+'))
    if left < 0 and newer then
      redis.call('XTRIM', stream, 'MINID', text(newer))
      redis.call('HSET', KEYS[2], 'lowest', text(newer))
      return newer
    end
    newer = offset
  end
  if #entries < 100 then
    return 0
  end
  last = '(' .. entries[#entries][1]
end
