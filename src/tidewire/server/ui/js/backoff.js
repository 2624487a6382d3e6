// When to try again: full jitter, so that a thousand pages do not come back in the same moment.

export const CAP = 15_000;
const BASE = 1_000;
const FLOOR = 150;

/** Milliseconds to wait before attempt number `attempt` (0: the first after a loss). */
export function delay(attempt, random = Math.random) {
  return FLOOR + random() * (Math.min(CAP, BASE * 2 ** attempt) - FLOOR);
}

/** Milliseconds to wait when the server said that it restarts. */
export function restartDelay(random = Math.random) {
  return 300 + random() * 1_200;
}

/** Close codes after which coming back makes no sense: not authenticated, and those the server calls final. */
export function isFinal(code) {
  return code === 1008 || (code >= 4500 && code <= 4999);
}
