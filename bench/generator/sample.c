/* What the generator, the server under test and the whole machine have used so far. */
#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double ticks(double value) { return value / (double)sysconf(_SC_CLK_TCK); }

/* Of all its threads, in nanoseconds: the ticks of /proc/PID/stat are 10 ms, as much as a small work takes. */
static double process_cpu(int pid) {
  clockid_t clock;
  struct timespec used;
  if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used)) die("the server (process %d) has gone", pid);
  return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static uint64_t process_rss(int pid) {
  char path[64], line[256];
  unsigned long kib = 0;
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "Rss: %lu", &kib) == 1) break;
  if (file) fclose(file);
  return (uint64_t)kib * 1024;
}

/* Seconds that all cores were busy, whoever used them: shows when something else ran at the same time. */
static double machine_cpu(void) {
  unsigned long long user = 0, nice = 0, kernel = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0;
  FILE *file = fopen("/proc/stat", "r");
  if (!file) return 0;
  if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &kernel, &idle, &wait, &irq, &softirq, &steal) < 8) user = 0;
  fclose(file);
  return ticks((double)(user + nice + kernel + irq + softirq + steal));
}

sample sample_take(void) {
  struct rusage usage;
  sample s = {0};
  getrusage(RUSAGE_SELF, &usage);
  s.wall = (double)clock_ns() / 1e9;
  s.own = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  s.machine = machine_cpu();
  for (const char *at = config.pids; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    s.server += process_cpu(atoi(at));
    s.server_rss += process_rss(atoi(at));
  }
  return s;
}
