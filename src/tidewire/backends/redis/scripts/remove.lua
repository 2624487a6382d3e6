-- Remove what is stored of a channel; its position stays. KEYS: those of the channel. ARGV: epoch if a new one begins.
local epoch, top = sound_position(generation(KEYS[1]), KEYS[2], KEYS[3], ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[2], 'lowest', text(top + 1))
return {epoch, top}
