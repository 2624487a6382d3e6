-- Return epoch and top of channels. KEYS: for each channel those of the channel. ARGV: epoch if a new one begins.
local answer = {}
for index = 1, #KEYS, 3 do
  local epoch, top, _, age = sound_position(generation(KEYS[index]), KEYS[index + 1], KEYS[index + 2], ARGV[1])
  outlive(KEYS[index + 1], age)
  answer[#answer + 1] = epoch
  answer[#answer + 1] = top
end
return answer
