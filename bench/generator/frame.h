/* WebSocket frames as a client sees them (RFC 6455 section 5.2). */
#ifndef FRAME_H
#define FRAME_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10, FRAME_HEADER_MAX = 14 };

typedef struct {
  uint8_t opcode, fin, plain; /* plain: neither masked nor with reserved bits, as a server's frames must be */
  uint64_t size;
} frame_header;

/* Returns the bytes of the header, or 0 when more are needed. */
static inline size_t frame_read(const uint8_t *data, size_t available, frame_header *h) {
  if (available < 2) return 0;
  h->opcode = data[0] & 15;
  h->fin = data[0] >> 7;
  h->plain = (data[0] & 0x70) == 0 && (data[1] & 0x80) == 0;
  h->size = data[1] & 0x7f;
  if (h->size < 126) return 2;
  size_t length = h->size == 126 ? 4 : 10;
  if (available < length) return 0;
  h->size = 0;
  for (size_t i = 2; i < length; i++) h->size = h->size << 8 | data[i];
  return length;
}

/* Writes one masked frame; `out` has room for `size` and FRAME_HEADER_MAX bytes. Returns the bytes written. */
static inline size_t frame_write(uint8_t *out, uint8_t opcode, const uint8_t *data, size_t size, uint32_t mask) {
  size_t at = 2;
  out[0] = 0x80 | opcode;
  if (size < 126) {
    out[1] = 0x80 | (uint8_t)size;
  } else if (size < 65536) {
    out[1] = 0x80 | 126;
    out[2] = (uint8_t)(size >> 8);
    out[3] = (uint8_t)size;
    at = 4;
  } else {
    out[1] = 0x80 | 127;
    for (int i = 0; i < 8; i++) out[2 + i] = (uint8_t)(size >> (56 - 8 * i));
    at = 10;
  }
  memcpy(out + at, &mask, 4);
  at += 4;
  for (size_t i = 0; i < size; i++) out[at + i] = data[i] ^ (uint8_t)(mask >> (8 * (i & 3)));
  return at + size;
}
#endif
