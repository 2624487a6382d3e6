/* What the servers speak inside WebSocket messages. */
#define _GNU_SOURCE
#include "frame.h"
#include "load.h"
#include <stdio.h>

static size_t published_as_it_is(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  (void)channel;
  memcpy(out, payload, size);
  return size;
}

static size_t plain_received(connection *c, const uint8_t *data, size_t size) {
  deliver(c, data, size);
  return size;
}

/* A message is a payload, and the path names the room. */
const dialect dialect_plain = {"plain", 0, OP_TEXT, connection_ready, plain_received, published_as_it_is};

/* An echo that puts its own words before what came. */
static size_t prefixed_received(connection *c, const uint8_t *data, size_t size) {
  if (size >= config.size) deliver(c, data + size - config.size, config.size);
  else count.foreign++;
  return size;
}

const dialect dialect_prefixed = {"prefixed", 0, OP_TEXT, connection_ready, prefixed_received, published_as_it_is};

/* NATS client protocol, https://docs.nats.io/reference/reference-protocols/nats-protocol */
static void nats_opened(connection *c) {
  char hello[256];
  int size = snprintf(hello, sizeof hello, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n");
  if (c->subscriber) size += snprintf(hello + size, sizeof hello - (size_t)size, "SUB %s 1\r\n", rooms[c->room].name);
  size += snprintf(hello + size, sizeof hello - (size_t)size, "PING\r\n");
  connection_queue(c, (const uint8_t *)hello, (size_t)size);
}

/* MSG subject sid size, the payload after it. Returns the bytes of both, 0 when not all is there. */
static size_t nats_message(connection *c, const uint8_t *line, size_t length, size_t available) {
  size_t size = 0, scale = 1, head = length + 2;
  for (size_t at = length; at-- > 0 && line[at] >= '0' && line[at] <= '9'; scale *= 10) size += (size_t)(line[at] - '0') * scale;
  if (available < head + size + 2) return 0;
  deliver(c, line + head, size);
  return head + size + 2;
}

static size_t nats_received(connection *c, const uint8_t *data, size_t size) {
  size_t at = 0;
  while (at < size) {
    const uint8_t *line = data + at, *end = memchr(line, '\r', size - at);
    if (!end || end + 1 == data + size) break;
    size_t length = (size_t)(end - line), used = length + 2;
    if (line[0] == 'M') {
      used = nats_message(c, line, length, size - at);
      if (!used) break;
    } else if (length == 4 && memcmp(line, "PING", 4) == 0) {
      count.pings++;
      connection_queue(c, (const uint8_t *)"PONG\r\n", 6);
    } else if (length == 4 && memcmp(line, "PONG", 4) == 0) {
      connection_ready(c);
    } else if (line[0] == '-') {
      die("the NATS server says %.*s", (int)length, (const char *)line);
    }
    at += used;
  }
  return at;
}

static size_t nats_publish(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  size_t at = (size_t)sprintf((char *)out, "PUB %s %zu\r\n", channel, size);
  memcpy(out + at, payload, size);
  memcpy(out + at + size, "\r\n", 2);
  return at + size + 2;
}

const dialect dialect_nats = {"nats", 1, OP_BINARY, nats_opened, nats_received, nats_publish};

/* Engine.IO 4 and Socket.IO 5 over the WebSocket transport; the event "m" carries one payload. */
static const char EVENT[] = "42[\"m\",\"";

static void socketio_opened(connection *c) {
  (void)c; /* the server speaks first: "0{…}" */
}

static size_t socketio_received(connection *c, const uint8_t *data, size_t size) {
  size_t head = sizeof EVENT - 1;
  if (size > head + 2 && memcmp(data, EVENT, head) == 0) {
    deliver(c, data + head, size - head - 2);
  } else if (size && data[0] == '0') {
    connection_queue(c, (const uint8_t *)"40", 2);
  } else if (size && data[0] == '2') {
    count.pings++;
    connection_queue(c, (const uint8_t *)"3", 1);
  } else if (size > 1 && data[0] == '4' && data[1] == '0') {
    connection_ready(c);
  } else if (size > 1 && data[0] == '4' && data[1] == '4') {
    die("the Socket.IO server says %.*s", (int)size, (const char *)data);
  }
  return size;
}

static size_t socketio_publish(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  size_t head = sizeof EVENT - 1;
  (void)channel;
  memcpy(out, EVENT, head);
  memcpy(out + head, payload, size);
  memcpy(out + head + size, "\"]", 2);
  return head + size + 2;
}

const dialect dialect_socketio = {"socketio", 0, OP_TEXT, socketio_opened, socketio_received, socketio_publish};

/* The Centrifuge protocol, https://centrifugal.dev/docs/transports/client_protocol: a payload is a JSON string in both encodings. */
static uint32_t next_command(void) {
  static uint32_t last = 2;
  return last = last == UINT32_MAX ? 3 : last + 1;
}

static void centrifuge_push(connection *c, const uint8_t *data, size_t size) {
  const uint8_t *payload = memmem(data, size, "\"twb:", 5);
  if (payload && (size_t)(data + size - payload) > config.size + 1) deliver(c, payload + 1, config.size);
  else count.foreign++;
}

static void json_opened(connection *c) {
  char hello[128];
  int size = snprintf(hello, sizeof hello, "{\"id\":1,\"connect\":{}}");
  if (c->subscriber)
    size += snprintf(hello + size, sizeof hello - (size_t)size, "\n{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}", rooms[c->room].name);
  connection_queue(c, (const uint8_t *)hello, (size_t)size);
}

static size_t json_received(connection *c, const uint8_t *data, size_t size) {
  if (size > 8 && memcmp(data, "{\"push\":", 8) == 0) {
    centrifuge_push(c, data, size);
  } else if (size == 2) {
    count.pings++;
    connection_queue(c, (const uint8_t *)"{}", 2);
  } else if (memmem(data, size, "\"error\"", 7)) {
    die("the Centrifuge server says %.*s", (int)size, (const char *)data);
  } else if (size > 8 && memcmp(data, c->subscriber ? "{\"id\":2," : "{\"id\":1,", 8) == 0) {
    connection_ready(c);
  }
  return size;
}

static size_t json_publish(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  size_t at = (size_t)sprintf((char *)out, "{\"id\":%u,\"publish\":{\"channel\":\"%s\",\"data\":\"", next_command(), channel);
  memcpy(out + at, payload, size);
  memcpy(out + at + size, "\"}}", 3);
  return at + size + 3;
}

const dialect dialect_centrifuge_json = {"centrifuge-json", 0, OP_TEXT, json_opened, json_received, json_publish};

/* The first version of the protocol, as Centrifuge 0.15 speaks it: methods are numbers, and a frame has several lines. */
static void first_opened(connection *c) {
  char hello[128];
  int size = snprintf(hello, sizeof hello, "{\"id\":1,\"params\":{}}");
  if (c->subscriber)
    size += snprintf(hello + size, sizeof hello - (size_t)size, "\n{\"id\":2,\"method\":1,\"params\":{\"channel\":\"%s\"}}", rooms[c->room].name);
  connection_queue(c, (const uint8_t *)hello, (size_t)size);
}

static size_t first_received(connection *c, const uint8_t *data, size_t size) {
  for (size_t at = 0; at < size;) {
    const uint8_t *line = data + at, *end = memchr(line, '\n', size - at);
    size_t length = end ? (size_t)(end - line) : size - at;
    if (length > 10 && memcmp(line, "{\"result\":", 10) == 0) centrifuge_push(c, line, length);
    else if (memmem(line, length, "\"error\"", 7)) die("the Centrifuge server says %.*s", (int)length, (const char *)line);
    else if (length > 8 && memcmp(line, c->subscriber ? "{\"id\":2," : "{\"id\":1,", 8) == 0) connection_ready(c);
    at += length + 1;
  }
  return size;
}

static size_t first_publish(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  size_t at = (size_t)sprintf((char *)out, "{\"id\":%u,\"method\":3,\"params\":{\"channel\":\"%s\",\"data\":\"", next_command(), channel);
  memcpy(out + at, payload, size);
  memcpy(out + at + size, "\"}}", 3);
  return at + size + 3;
}

const dialect dialect_centrifuge_first = {"centrifuge-first", 0, OP_TEXT, first_opened, first_received, first_publish};

/* Base 128, lowest first (protobuf.dev/programming-guides/encoding). */
static size_t write_varint(uint8_t *out, uint32_t value) {
  size_t at = 0;
  for (; value > 127; value >>= 7) out[at++] = (uint8_t)(value | 128);
  out[at++] = (uint8_t)value;
  return at;
}

static size_t write_field(uint8_t *out, uint8_t number, const void *data, size_t size) {
  size_t at = 1 + write_varint(out + 1, (uint32_t)size);
  out[0] = (uint8_t)(number << 3 | 2);
  memcpy(out + at, data, size);
  return at + size;
}

/* A command with an id and one method, behind its length. */
static size_t write_command(uint8_t *out, uint32_t id, uint8_t method, const uint8_t *request, size_t size) {
  static uint8_t command[PAYLOAD_MAX + 128];
  size_t at = 1;
  command[0] = 1 << 3;
  at += write_varint(command + at, id);
  at += write_field(command + at, method, request, size);
  size_t head = write_varint(out, (uint32_t)at);
  memcpy(out + head, command, at);
  return head + at;
}

static void protobuf_opened(connection *c) {
  uint8_t hello[128], request[64];
  size_t size = write_command(hello, 1, 4, request, 0);
  if (c->subscriber) {
    size_t asked = write_field(request, 1, rooms[c->room].name, strlen(rooms[c->room].name));
    size += write_command(hello + size, 2, 5, request, asked);
  }
  connection_queue(c, hello, size);
}

static size_t protobuf_received(connection *c, const uint8_t *data, size_t size) {
  if (size == 1) {
    count.pings++;
    connection_queue(c, (const uint8_t *)"", 1);
    return size;
  }
  size_t head = 1;
  while (head < size && data[head - 1] & 128) head++;
  if (head + 2 > size) return size;
  if (data[head] == (4 << 3 | 2)) {
    centrifuge_push(c, data, size);
  } else if (data[head] == 1 << 3 && data[head + 1] == (c->subscriber ? 2 : 1)) {
    connection_ready(c);
  }
  return size;
}

static size_t protobuf_publish(uint8_t *out, const char *channel, const uint8_t *payload, size_t size) {
  static uint8_t request[PAYLOAD_MAX + 64], quoted[PAYLOAD_MAX + 2];
  size_t at = write_field(request, 1, channel, strlen(channel));
  quoted[0] = quoted[size + 1] = '"';
  memcpy(quoted + 1, payload, size);
  at += write_field(request + at, 2, quoted, size + 2);
  return write_command(out, next_command(), 7, request, at);
}

const dialect dialect_centrifuge_protobuf = {"centrifuge-protobuf", 0, OP_BINARY, protobuf_opened, protobuf_received, protobuf_publish};
