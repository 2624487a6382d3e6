/* The state of one run: connections, rooms and publishers, and what was counted. */
#ifndef LOAD_H
#define LOAD_H
#include <stddef.h>
#include <stdint.h>
#include "histogram.h"
#include "payload.h"

typedef struct connection connection;
typedef struct publisher publisher;

typedef struct {
  const char *name;
  /* The payload of all frames is one stream of bytes, in which frame boundaries mean nothing (NATS). */
  int stream;
  uint8_t opcode;
  /* After the upgrade. */
  void (*opened)(connection *);
  /* Handles what has come and returns how many bytes of it; a dialect of messages gets each whole. */
  size_t (*received)(connection *, const uint8_t *, size_t);
  /* Writes the application message that publishes a payload; returns its size. */
  size_t (*publish)(uint8_t *out, const char *room, const uint8_t *payload, size_t size);
} dialect;

enum mode { FANOUT, PACED, IDLE, CONNECT };

typedef struct {
  enum mode mode;
  const dialect *dialect;
  const char *host, *path, *publish_path, *pids;
  int port, rooms, subscribers, publishers, in_flight, frozen, parallel, warm;
  size_t size;
  double rate, warmup, window, hold, limit, drain;
} options;

enum state { UNUSED, CONNECTING, UPGRADING, GREETING, READY, DEAD };

struct connection {
  int fd, room;
  enum state state;
  uint8_t subscriber, frozen, in_frame, dirty, waiting;
  uint64_t frame_left, opened;      /* opened: when it began to connect */
  uint32_t carry;                   /* bytes of a stream that the last frame left unfinished */
  uint32_t rest_size;               /* bytes received and not yet handled */
  uint8_t *rest;
  uint8_t *out, *raw;               /* to be written; of a stream, to be framed */
  uint32_t out_size, out_room, raw_size, raw_room;
  uint32_t *next;                   /* the expected number for each publisher of the room; 0: none yet */
  publisher *publisher;
};

struct publisher {
  connection *connection;
  int room, local;                  /* local: its place among the publishers of its room */
  uint32_t published, outstanding, finished;
  uint32_t *remaining;              /* deliveries still to come, for each message in a ring */
};

typedef struct {
  char name[24];
  int live;                         /* subscribers that read */
} room;

typedef struct {
  uint64_t deliveries, published, completed, lost, reordered, foreign, disconnected, skipped;
  uint64_t opened, pings;
} counters;

extern options config;
extern counters count;
extern connection *connections;
extern room *rooms;
extern publisher *publishers;
extern int connection_count, publisher_count, measuring;
extern uint32_t ring_size;
extern histogram *each, *whole;     /* latency of each delivery, or until a connection was ready; of the last delivery of each message */
extern uint64_t now;                /* CLOCK_MONOTONIC, read once for each batch of bytes received */

extern const dialect dialect_plain, dialect_prefixed, dialect_centrifuge_first, dialect_nats, dialect_socketio, dialect_centrifuge_json, dialect_centrifuge_protobuf;

uint64_t clock_ns(void);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void *must(void *memory);

/* load.c */
void load_prepare(void);
void load_begin(void);
void deliver(connection *c, const uint8_t *data, size_t size);
void publish(publisher *p, uint64_t time);
void load_disconnected(connection *c);
uint64_t load_outstanding(void);
uint64_t load_missing(void);
int load_all_reached(void);

/* connection.c */
void connection_open(connection *c);
void connection_event(connection *c, uint32_t events);
void connection_ready(connection *c);
void connection_queue(connection *c, const uint8_t *message, size_t size);
void connection_control(connection *c, uint8_t opcode, const uint8_t *data, size_t size);
void connection_freeze(connection *c);
void connections_flush(void);
extern int epoll_fd, ready_count, pending_count;

/* sample.c */
typedef struct {
  double wall, own, server, machine;
  uint64_t server_rss;
} sample;
sample sample_take(void);
#endif
