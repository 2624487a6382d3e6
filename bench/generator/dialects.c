/* What the servers speak inside WebSocket messages. */
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
