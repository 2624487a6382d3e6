/* A load generator for WebSocket servers that broadcast: opens subscribers, publishes, counts what comes, verifies that
 * all of it comes, once and in order, and prints one JSON object. Started by bench/generator.py; see there for how. */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

options config = {.mode = FANOUT, .dialect = &dialect_plain, .host = "127.0.0.1", .path = "/", .rooms = 1, .subscribers = 1000,
                  .publishers = 1, .in_flight = 256, .parallel = 64, .size = 128, .rate = 100, .warmup = 1, .window = 5, .limit = 30, .drain = 10};
static int timer_fd;
static sample begin, end, first, warm;
static double connect_seconds;

uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("generator: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

void *must(void *memory) {
  if (!memory) die("out of memory");
  return memory;
}

/* One turn: wait until something comes or the time is reached, handle it, write what it caused. */
static void turn(uint64_t until) {
  struct epoll_event events[512];
  struct itimerspec at = {.it_value = {(time_t)(until / 1000000000ULL), (long)(until % 1000000000ULL)}};
  uint64_t expirations;
  timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
  int got = epoll_wait(epoll_fd, events, 512, -1);
  if (got < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
  for (int i = 0; i < got; i++) {
    if (events[i].data.ptr)
      connection_event(events[i].data.ptr, events[i].events);
    else if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
      die("timer: %s", strerror(errno));
  }
  connections_flush();
}

static uint64_t after(double seconds) { return clock_ns() + (uint64_t)(seconds * 1e9); }

static void run_until(uint64_t until) {
  while (clock_ns() < until) turn(until);
}

static void connect_all(void) {
  uint64_t limit = after(config.limit * 2), started = clock_ns();
  int opened = 0;
  first = warm = sample_take();
  while (ready_count < connection_count) {
    int wanted = config.warm && ready_count < config.warm ? config.warm : connection_count;
    while (opened < wanted && pending_count < config.parallel) connection_open(&connections[opened++]);
    turn(after(0.1));
    if (config.warm && ready_count == config.warm && opened == config.warm) {
      run_until(after(0.5));
      warm = sample_take();
      config.warm = 0;
      started = clock_ns();
    }
    if (clock_ns() > limit) die("only %d of %d connections were ready in time", ready_count, connection_count);
  }
  connect_seconds = (double)(clock_ns() - started) / 1e9;
}

/* A server may be subscribing still when it has answered the handshake: publish until everybody has got the newest. */
static void wait_until_live(void) {
  uint64_t limit = after(config.limit);
  while (!load_all_reached() || publishers[0].published == 0) {
    if (clock_ns() > limit) die("no message reached all subscribers in %.0f s", config.limit);
    for (int i = 0; i < config.rooms; i++) {
      publisher *p = &publishers[i * config.publishers];
      p->outstanding = 0;
      publish(p, clock_ns());
    }
    connections_flush();
    for (uint64_t until = after(0.5); clock_ns() < until && !load_all_reached();) turn(until);
  }
  load_begin();
}

static void keep_in_flight(uint64_t until) {
  uint32_t share = (uint32_t)(config.in_flight / publisher_count);
  while (clock_ns() < until) {
    for (int i = 0; i < publisher_count; i++)
      if (publishers[i].outstanding < share)
        for (uint64_t time = clock_ns(); publishers[i].outstanding < share;) publish(&publishers[i], time);
    connections_flush();
    turn(until);
  }
}

/* Each message has its due time, and latency counts from it, however late the generator or the server was. */
static void keep_pace(uint64_t until) {
  static uint64_t started, tick;
  if (!started) started = clock_ns();
  double interval = 1e9 / (config.rate * config.rooms);
  while (clock_ns() < until) {
    uint64_t due = started + (uint64_t)((double)tick * interval);
    for (uint64_t time = clock_ns(); due <= time; due = started + (uint64_t)((double)tick * interval)) {
      uint64_t number = tick % (uint64_t)config.rooms, local = tick / (uint64_t)config.rooms % (uint64_t)config.publishers;
      publish(&publishers[number * (uint64_t)config.publishers + local], due);
      tick++;
    }
    connections_flush();
    turn(due < until ? due : until);
  }
}

static counters measure(void (*keep)(uint64_t)) {
  keep(after(config.warmup));
  counters before = count;
  measuring = 1;
  begin = sample_take();
  keep(after(config.window));
  end = sample_take();
  measuring = 0;
  counters taken = {.deliveries = count.deliveries - before.deliveries, .completed = count.completed - before.completed, .published = count.published - before.published};
  for (uint64_t limit = after(config.drain); load_outstanding() && clock_ns() < limit;) turn(after(0.05));
  return taken;
}

static void print_latency(const char *name, const histogram *h) {
  printf(", \"%s\": {\"count\": %llu, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f}", name, (unsigned long long)h->count,
         (double)histogram_quantile(h, 0.5) / 1e6, (double)histogram_quantile(h, 0.9) / 1e6, (double)histogram_quantile(h, 0.99) / 1e6, (double)h->max / 1e6);
}

static void report(const counters *taken) {
  double wall = end.wall - begin.wall;
  printf("{\"connections\": %d, \"connect_seconds\": %.4f, \"seconds\": %.4f, \"deliveries\": %llu, \"published\": %llu, \"completed\": %llu", connection_count,
         connect_seconds, wall, (unsigned long long)taken->deliveries, (unsigned long long)taken->published, (unsigned long long)taken->completed);
  printf(", \"lost\": %llu, \"missing\": %llu, \"reordered\": %llu, \"foreign\": %llu, \"disconnected\": %llu, \"skipped\": %llu", (unsigned long long)count.lost, (unsigned long long)load_missing(),
         (unsigned long long)count.reordered, (unsigned long long)count.foreign, (unsigned long long)count.disconnected, (unsigned long long)count.skipped);
  printf(", \"pings\": %llu", (unsigned long long)count.pings);
  printf(", \"generator_cpu\": %.4f, \"server_cpu\": %.4f, \"machine_cpu\": %.4f", (end.own - begin.own) / wall, (end.server - begin.server) / wall,
         (end.machine - begin.machine) / wall);
  printf(", \"rss_first\": %llu, \"rss_warm\": %llu, \"rss_begin\": %llu, \"rss_end\": %llu", (unsigned long long)first.server_rss,
         (unsigned long long)warm.server_rss, (unsigned long long)begin.server_rss, (unsigned long long)end.server_rss);
  print_latency("latency", each);
  print_latency("last", whole);
  puts("}");
}

static void run(void) {
  counters taken = {0};
  connect_all();
  end = sample_take();
  begin = warm;
  if (config.mode == IDLE) {
    run_until(after(config.hold));
    end = sample_take();
  } else if (config.mode != CONNECT) {
    wait_until_live();
    taken = measure(config.mode == FANOUT ? keep_in_flight : keep_pace);
  }
  report(&taken);
}

static const struct option names[] = {{"port", 1, 0, 'p'}, {"path", 1, 0, 'P'}, {"publish-path", 1, 0, 'Q'}, {"dialect", 1, 0, 'd'}, {"mode", 1, 0, 'm'},
                                      {"rooms", 1, 0, 'r'}, {"subscribers", 1, 0, 's'}, {"publishers", 1, 0, 'u'}, {"in-flight", 1, 0, 'f'}, {"rate", 1, 0, 'R'},
                                      {"warmup", 1, 0, 'w'}, {"window", 1, 0, 'W'}, {"size", 1, 0, 'z'}, {"frozen", 1, 0, 'F'}, {"pids", 1, 0, 'i'},
                                      {"hold", 1, 0, 'H'}, {"parallel", 1, 0, 'c'}, {"warm", 1, 0, 'a'}, {"limit", 1, 0, 'l'}, {"drain", 1, 0, 'D'}, {0, 0, 0, 0}};

static enum mode find_mode(const char *name) {
  static const char *const known[] = {"fanout", "paced", "idle", "connect"};
  for (int i = 0; i < 4; i++)
    if (strcmp(name, known[i]) == 0) return (enum mode)i;
  die("unknown mode %s; it is one of fanout, paced, idle, connect", name);
}

static const dialect *find_dialect(const char *name) {
  const dialect *const known[] = {&dialect_plain,           &dialect_prefixed,          &dialect_nats,           &dialect_socketio,
                                  &dialect_centrifuge_json, &dialect_centrifuge_protobuf, &dialect_centrifuge_first};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(name, known[i]->name) == 0) return known[i];
  die("unknown dialect %s; it is one of plain, prefixed, nats, socketio, centrifuge-json, centrifuge-protobuf, centrifuge-first", name);
}

static void set(int option, const char *value) {
  switch (option) {
    case 'p': config.port = atoi(value); break;
    case 'P': config.path = value; break;
    case 'Q': config.publish_path = value; break;
    case 'd': config.dialect = find_dialect(value); break;
    case 'm': config.mode = find_mode(value); break;
    case 'r': config.rooms = atoi(value); break;
    case 's': config.subscribers = atoi(value); break;
    case 'u': config.publishers = atoi(value); break;
    case 'f': config.in_flight = atoi(value); break;
    case 'R': config.rate = atof(value); break;
    case 'w': config.warmup = atof(value); break;
    case 'W': config.window = atof(value); break;
    case 'z': config.size = (size_t)atoi(value); break;
    case 'F': config.frozen = atoi(value); break;
    case 'i': config.pids = value; break;
    case 'H': config.hold = atof(value); break;
    case 'c': config.parallel = atoi(value); break;
    case 'a': config.warm = atoi(value); break;
    case 'l': config.limit = atof(value); break;
    case 'D': config.drain = atof(value); break;
    default: die("unknown option");
  }
}

int main(int count_of_words, char **words) {
  int option;
  while ((option = getopt_long(count_of_words, words, "", names, NULL)) != -1) set(option, optarg);
  if (config.port <= 0 || config.rooms < 1 || config.subscribers < 1 || config.publishers < 1) die("port, rooms, subscribers and publishers must be at least 1");
  if (config.size < PAYLOAD_MIN || config.size > PAYLOAD_MAX) die("size must be %d to %d bytes", PAYLOAD_MIN, PAYLOAD_MAX);
  if (config.mode == FANOUT && config.in_flight < config.rooms * config.publishers) die("each publisher needs at least one message in flight");
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event timer = {.events = EPOLLIN};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timer);
  load_prepare();
  run();
  return 0;
}
