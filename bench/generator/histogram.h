/* Latencies in nanoseconds, kept with a relative error below 1/64 (as in HdrHistogram, but of fixed size). */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_BUCKETS = 40 * HISTOGRAM_STEPS };

typedef struct {
  uint64_t count, max;
  uint32_t buckets[HISTOGRAM_BUCKETS];
} histogram;

static inline void histogram_add(histogram *h, uint64_t value) {
  unsigned shift = value < 2 * HISTOGRAM_STEPS ? 0 : (unsigned)(63 - __builtin_clzll(value)) - 6;
  unsigned index = shift * HISTOGRAM_STEPS + (unsigned)(value >> shift);
  if (index >= HISTOGRAM_BUCKETS) index = HISTOGRAM_BUCKETS - 1;
  h->buckets[index]++;
  h->count++;
  if (value > h->max) h->max = value;
}

/* The upper edge of the bucket in which the fraction is reached; never more than the maximum. */
static inline uint64_t histogram_quantile(const histogram *h, double fraction) {
  uint64_t wanted = (uint64_t)(fraction * (double)h->count), seen = 0;
  for (unsigned index = 0; index < HISTOGRAM_BUCKETS; index++) {
    seen += h->buckets[index];
    if (seen > wanted) {
      unsigned shift = index < 2 * HISTOGRAM_STEPS ? 0 : index / HISTOGRAM_STEPS - 1;
      uint64_t edge = ((uint64_t)(index - shift * HISTOGRAM_STEPS) + 1) << shift;
      return edge < h->max ? edge : h->max;
    }
  }
  return h->max;
}
#endif
