/* Who publishes what, and whether all of it has come, once each and in order. */
#include "load.h"
#include <stdio.h>
#include <stdlib.h>

counters count;
connection *connections;
room *rooms;
publisher *publishers;
int connection_count, publisher_count, measuring;
uint32_t ring_size;
histogram *each, *whole;
uint64_t now;

static void subscriber_prepare(connection *c, int number, int index) {
  c->room = number;
  c->subscriber = 1;
  c->frozen = config.frozen > 0 && index >= config.subscribers - config.frozen;
  c->next = must(calloc((size_t)config.publishers + 1, sizeof *c->next));
}

static void publisher_prepare(publisher *p, connection *c, int number, int local) {
  p->connection = c;
  p->room = number;
  p->local = local;
  p->remaining = must(calloc(ring_size, sizeof *p->remaining));
  c->room = number;
  c->publisher = p;
}

static void room_prepare(int number, int separate) {
  room *r = &rooms[number];
  connection *first = connections + (size_t)number * (size_t)config.subscribers;
  snprintf(r->name, sizeof r->name, "room%d", number);
  r->live = config.subscribers - config.frozen;
  for (int i = 0; i < config.subscribers; i++) subscriber_prepare(&first[i], number, i);
  connection *extra = connections + (size_t)config.rooms * (size_t)config.subscribers;
  for (int i = 0; i < config.publishers; i++) {
    int global = number * config.publishers + i;
    publisher_prepare(&publishers[global], separate ? &extra[global] : &first[i], number, i);
  }
}

void load_prepare(void) {
  int separate = config.publish_path != NULL;
  if (!separate && config.publishers > config.subscribers - config.frozen)
    die("%d publishers in a room of %d subscribers that read: publishers are the first of the subscribers", config.publishers,
        config.subscribers - config.frozen);
  publisher_count = config.rooms * config.publishers;
  connection_count = config.rooms * config.subscribers + (separate ? publisher_count : 0);
  uint32_t wanted = config.mode == PACED ? 8192 : 4 + 2 * (uint32_t)(config.in_flight / (publisher_count + 1) + 1);
  for (ring_size = 8; ring_size < wanted;) ring_size *= 2;
  connections = must(calloc((size_t)connection_count, sizeof *connections));
  rooms = must(calloc((size_t)config.rooms, sizeof *rooms));
  publishers = must(calloc((size_t)publisher_count + 1, sizeof *publishers));
  each = must(calloc(1, sizeof *each));
  whole = must(calloc(1, sizeof *whole));
  for (int i = 0; i < connection_count; i++) connections[i].fd = -1;
  for (int i = 0; i < config.rooms; i++) room_prepare(i, separate);
}

/* Everybody is live: from here on each message counts. */
void load_begin(void) {
  for (int i = 0; i < publisher_count; i++) publishers[i].outstanding = 0;
  for (int i = 0; i < connection_count; i++) {
    connection *c = &connections[i];
    if (!c->subscriber) continue;
    for (int p = 0; p < config.publishers; p++) c->next[p] = publishers[c->room * config.publishers + p].published + 1;
    if (c->frozen) connection_freeze(c);
  }
  count.deliveries = count.completed = count.published = 0;
}

void publish(publisher *p, uint64_t time) {
  static uint8_t payload[PAYLOAD_MAX], message[PAYLOAD_MAX + 128];
  if (p->outstanding >= ring_size) {
    count.skipped++;
    return;
  }
  uint32_t sequence = ++p->published;
  p->remaining[sequence & (ring_size - 1)] = (uint32_t)rooms[p->room].live;
  p->outstanding++;
  count.published++;
  payload_write(payload, config.size, (stamp){(uint32_t)(p - publishers), sequence, time});
  connection_queue(p->connection, message, config.dialect->publish(message, rooms[p->room].name, payload, config.size));
}

static void completed(publisher *p, uint64_t time) {
  count.completed++;
  if (p->outstanding) p->outstanding--;
  p->finished++;
  if (measuring) histogram_add(whole, now - time);
}

void deliver(connection *c, const uint8_t *data, size_t size) {
  stamp s;
  if (!c->subscriber || !payload_read(data, size, &s) || s.publisher >= (uint32_t)publisher_count || size != config.size) {
    count.foreign++;
    return;
  }
  publisher *p = &publishers[s.publisher];
  if (p->room != c->room) die("a message of %s came to a subscriber of %s", rooms[p->room].name, rooms[c->room].name);
  uint32_t *next = &c->next[p->local];
  if (s.sequence != *next && *next != 0) {
    if (s.sequence < *next) {
      count.reordered++;
      return;
    }
    count.lost += s.sequence - *next;
  }
  *next = s.sequence + 1;
  count.deliveries++;
  if (measuring) histogram_add(each, now - s.time);
  if (--p->remaining[s.sequence & (ring_size - 1)] == 0) completed(p, s.time);
}

/* A subscriber has gone: nobody waits for what it would have got. */
void load_disconnected(connection *c) {
  if (!c->subscriber || c->frozen || c->state != READY) return;
  count.disconnected++;
  rooms[c->room].live--;
  for (int i = 0; i < config.publishers; i++) {
    publisher *p = &publishers[c->room * config.publishers + i];
    for (uint32_t s = c->next[i] ? c->next[i] : 1; s <= p->published; s++)
      if (p->remaining[s & (ring_size - 1)] && --p->remaining[s & (ring_size - 1)] == 0) completed(p, now);
  }
}

uint64_t load_outstanding(void) {
  uint64_t total = 0;
  for (int i = 0; i < publisher_count; i++) total += publishers[i].outstanding;
  return total;
}

/* What was published and has not come to a connected subscriber that reads. */
uint64_t load_missing(void) {
  uint64_t missing = 0;
  for (int i = 0; i < connection_count; i++) {
    connection *c = &connections[i];
    if (!c->subscriber || c->frozen || c->state != READY) continue;
    for (int p = 0; p < config.publishers; p++)
      if (c->next[p]) missing += publishers[c->room * config.publishers + p].published + 1 - c->next[p];
  }
  return missing;
}

/* Has the newest message of the first publisher of every room come to all, so that everybody's subscription is live? */
int load_all_reached(void) {
  for (int i = 0; i < connection_count; i++) {
    connection *c = &connections[i];
    if (c->subscriber && c->next[0] != publishers[c->room * config.publishers].published + 1) return 0;
  }
  return 1;
}
