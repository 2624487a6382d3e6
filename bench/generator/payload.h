/* What every benchmark message carries: who published it, its number and when. Text without characters that JSON
 * escapes, so that the same bytes travel in every dialect: 4 bytes of magic, then hexadecimal digits as '@'..'O'. */
#ifndef PAYLOAD_H
#define PAYLOAD_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PAYLOAD_MIN = 36, PAYLOAD_MAX = 16384 };

typedef struct {
  uint32_t publisher;
  uint32_t sequence;
  uint64_t time;
} stamp;

static inline uint64_t digits_spread(uint32_t value) {
  uint64_t x = value;
  x = (x | x << 16) & 0x0000ffff0000ffffULL;
  x = (x | x << 8) & 0x00ff00ff00ff00ffULL;
  x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fULL;
  return x | 0x4040404040404040ULL;
}

static inline uint32_t digits_join(uint64_t x) {
  x &= 0x0f0f0f0f0f0f0f0fULL;
  x = (x | x >> 4) & 0x00ff00ff00ff00ffULL;
  x = (x | x >> 8) & 0x0000ffff0000ffffULL;
  return (uint32_t)(x | x >> 16);
}

static inline void payload_write(uint8_t *out, size_t size, stamp s) {
  uint64_t words[4] = {digits_spread(s.publisher), digits_spread(s.sequence), digits_spread((uint32_t)(s.time >> 32)),
                       digits_spread((uint32_t)s.time)};
  memcpy(out, "twb:", 4);
  memcpy(out + 4, words, sizeof words);
  memset(out + PAYLOAD_MIN, 'x', size - PAYLOAD_MIN);
}

/* Returns 0 when these bytes are no benchmark message. */
static inline int payload_read(const uint8_t *data, size_t size, stamp *s) {
  uint64_t words[4];
  if (size < PAYLOAD_MIN || memcmp(data, "twb:", 4) != 0) return 0;
  memcpy(words, data + 4, sizeof words);
  s->publisher = digits_join(words[0]);
  s->sequence = digits_join(words[1]);
  s->time = (uint64_t)digits_join(words[2]) << 32 | digits_join(words[3]);
  return 1;
}
#endif
