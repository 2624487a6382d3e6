/* Sockets: the handshake, the frames that come and the bytes that go. */
#define _GNU_SOURCE
#include "frame.h"
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024 };
static uint8_t buffer[BUFFER];
static connection **dirty;
static int dirty_count;
int epoll_fd, ready_count, pending_count;

/* RFC 6455 section 1.3: the example key and the answer to it. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void watch(connection *c, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  if (epoll_ctl(epoll_fd, operation, c->fd, &event) != 0) die("epoll_ctl: %s", strerror(errno));
}

static void connection_end(connection *c, const char *why) {
  if (c->state == DEAD) return;
  if (c->state != READY) die("connection %d ended before it was ready: %s", (int)(c - connections), why);
  load_disconnected(c);
  c->state = DEAD;
  close(c->fd);
  c->fd = -1;
}

void connection_open(connection *c) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)config.port)};
  int one = 1;
  inet_pton(AF_INET, config.host, &to.sin_addr);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) die("socket: %s (raise the limit of open files: ulimit -n)", strerror(errno));
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
    die("cannot connect to %s:%d: %s", config.host, config.port, strerror(errno));
  c->opened = clock_ns();
  c->state = CONNECTING;
  pending_count++;
  watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

void connection_ready(connection *c) {
  if (c->state == READY) return;
  c->state = READY;
  if (config.mode == CONNECT && !config.warm) histogram_add(each, clock_ns() - c->opened);
  ready_count++;
  pending_count--;
}

void connection_freeze(connection *c) {
  epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
}

static void append(uint8_t **to, uint32_t *size, uint32_t *capacity, size_t more) {
  if (*size + more <= *capacity) return;
  *capacity = (uint32_t)(*size + more) * 2;
  *to = must(realloc(*to, *capacity));
}

static void mark_dirty(connection *c) {
  if (c->dirty) return;
  if (!dirty) dirty = must(calloc((size_t)connection_count, sizeof *dirty));
  c->dirty = 1;
  dirty[dirty_count++] = c;
}

static void queue_frame(connection *c, uint8_t opcode, const uint8_t *data, size_t size) {
  append(&c->out, &c->out_size, &c->out_room, size + FRAME_HEADER_MAX);
  c->out_size += (uint32_t)frame_write(c->out + c->out_size, opcode, data, size, (uint32_t)rand());
  mark_dirty(c);
}

void connection_control(connection *c, uint8_t opcode, const uint8_t *data, size_t size) {
  queue_frame(c, opcode, data, size);
}

void connection_queue(connection *c, const uint8_t *message, size_t size) {
  if (c->state == DEAD) return;
  if (!config.dialect->stream) {
    queue_frame(c, config.dialect->opcode, message, size);
    return;
  }
  append(&c->raw, &c->raw_size, &c->raw_room, size);
  memcpy(c->raw + c->raw_size, message, size);
  c->raw_size += (uint32_t)size;
  mark_dirty(c);
}

static void write_out(connection *c) {
  if (c->out_size == 0 || c->state == DEAD) return;
  ssize_t sent = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN) {
      connection_end(c, strerror(errno));
      return;
    }
    sent = 0;
  }
  c->out_size -= (uint32_t)sent;
  memmove(c->out, c->out + sent, c->out_size);
  if ((c->out_size != 0) != c->waiting) {
    c->waiting = c->out_size != 0;
    watch(c, EPOLL_CTL_MOD, EPOLLIN | (c->waiting ? EPOLLOUT : 0));
  }
}

void connections_flush(void) {
  for (int i = 0; i < dirty_count; i++) {
    connection *c = dirty[i];
    c->dirty = 0;
    if (c->raw_size) {
      append(&c->out, &c->out_size, &c->out_room, c->raw_size + FRAME_HEADER_MAX);
      c->out_size += (uint32_t)frame_write(c->out + c->out_size, OP_BINARY, c->raw, c->raw_size, (uint32_t)rand());
      c->raw_size = 0;
    }
    if (!c->waiting) write_out(c);
  }
  dirty_count = 0;
}

static void upgrade(connection *c) {
  char path[512], request[1024];
  const char *from = !c->subscriber && config.publish_path ? config.publish_path : config.path, *mark = strstr(from, "{room}");
  if (mark)
    snprintf(path, sizeof path, "%.*s%s%s", (int)(mark - from), from, rooms[c->room].name, mark + 6);
  else
    snprintf(path, sizeof path, "%s", from);
  int size = snprintf(request, sizeof request,
                      "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                      path, config.host, config.port, KEY);
  c->state = UPGRADING;
  if (send(c->fd, request, (size_t)size, MSG_NOSIGNAL) != size) die("cannot send a handshake: %s", strerror(errno));
  watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static size_t upgraded(connection *c, const uint8_t *data, size_t size) {
  const uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t head = (size_t)(end - data) + 4;
  if (memcmp(data, "HTTP/1.1 101", 12) != 0 || !memmem(data, head, ACCEPT, sizeof ACCEPT - 1))
    die("the server refused a handshake: %.*s", (int)(head > 300 ? 300 : head), (const char *)data);
  c->state = GREETING;
  count.opened++;
  config.dialect->opened(c);
  return head;
}

static void control(connection *c, const frame_header *h, const uint8_t *data) {
  if (h->opcode == OP_PING) {
    count.pings++;
    connection_control(c, OP_PONG, data, (size_t)h->size);
  }
  if (h->opcode == OP_CLOSE) connection_end(c, h->size > 2 ? "a close frame with a reason" : "a close frame");
}

/* Enters the next data frame; control frames before it are handled. Returns 0 when more bytes are needed. What a
 * stream left unfinished in the frame before (`carry`) is moved over the header, so that it continues in one piece. */
static int enter_frame(connection *c, uint8_t *data, size_t size, size_t *at) {
  for (;;) {
    frame_header h;
    uint8_t *head = data + *at + c->carry;
    size_t have = size - *at - c->carry, length = frame_read(head, have, &h);
    if (!length) return 0;
    int is_control = h.opcode >= OP_CLOSE;
    if (!h.plain || (!h.fin && !config.dialect->stream)) die("the server sent a frame that is masked, compressed or fragmented");
    if ((is_control || !config.dialect->stream) && have < length + h.size) return 0;
    if (is_control) {
      control(c, &h, head + length);
      if (c->state == DEAD) return 0;
      length += (size_t)h.size;
    }
    memmove(data + *at + length, data + *at, c->carry);
    *at += length;
    if (is_control) continue;
    c->frame_left = h.size + c->carry;
    c->carry = 0;
    c->in_frame = 1;
    return 1;
  }
}

static size_t walk(connection *c, uint8_t *data, size_t size) {
  size_t at = 0;
  while (c->in_frame || enter_frame(c, data, size, &at)) {
    size_t have = size - at, part = c->frame_left < have ? (size_t)c->frame_left : have;
    size_t used = config.dialect->received(c, data + at, part);
    at += used;
    c->frame_left -= used;
    if (part - used != c->frame_left) break;
    c->in_frame = 0;
    c->carry = (uint32_t)c->frame_left;
  }
  return at;
}

static void keep_rest(connection *c, const uint8_t *data, size_t size) {
  if (size > BUFFER / 2) die("a message of more than %d bytes came", BUFFER / 2);
  if (size > c->rest_size) c->rest = must(realloc(c->rest, size));
  if (size) memcpy(c->rest, data, size);
  if (!size) {
    free(c->rest);
    c->rest = NULL;
  }
  c->rest_size = (uint32_t)size;
}

static void read_in(connection *c) {
  size_t size = c->rest_size, used = 0;
  if (size) memcpy(buffer, c->rest, size);
  ssize_t got = recv(c->fd, buffer + size, BUFFER - size, 0);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) connection_end(c, got == 0 ? "end of stream" : strerror(errno));
    return;
  }
  now = clock_ns();
  size += (size_t)got;
  if (c->state == UPGRADING) used = upgraded(c, buffer, size);
  if (c->state == GREETING || c->state == READY) used += walk(c, buffer + used, size - used);
  if (c->state != DEAD) keep_rest(c, buffer + used, size - used);
}

void connection_event(connection *c, uint32_t events) {
  if (c->state == DEAD) return;
  if (c->state == CONNECTING) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) die("cannot connect to %s:%d: %s", config.host, config.port, strerror(error));
    if (events & EPOLLOUT) upgrade(c);
    return;
  }
  if (events & EPOLLOUT) write_out(c);
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_in(c);
}
