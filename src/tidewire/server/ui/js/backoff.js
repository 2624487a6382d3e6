// When to try again: full jitter, so that a thousand pages do not come back in the same moment.

export const CAP = 15_000;
// While a person looks on, a server that is there again is noticed soon; after some minutes less often.
const SEEN_CAP = 2_500;
const SEEN_ATTEMPTS = 200;
const BASE = 1_000;
const FLOOR = 150;

/** Milliseconds to wait before attempt number `attempt` (0: the first after a loss); shorter while it is `seen`. */
export function delay(attempt, random = Math.random, seen = false) {
  const cap = seen && attempt < SEEN_ATTEMPTS ? SEEN_CAP : CAP;
  return FLOOR + random() * (Math.min(cap, BASE * 2 ** attempt) - FLOOR);
}

/** Milliseconds to wait when the server said that it restarts. */
export function restartDelay(random = Math.random) {
  return 300 + random() * 1_200;
}

/** Close codes after which coming back makes no sense: not authenticated, and those the server calls final. */
export function isFinal(code) {
  return code === 1008 || (code >= 4500 && code <= 4999);
}
