// How long a run may still take: by the durations of its steps before, otherwise by its progress.

const ENOUGH = 5;

/** Seconds until a step is done, or null when nothing tells. */
export function stepLeft(step, now) {
  if (step.status === "done") return 0;
  if (step.status !== "running") return step.expected;
  const elapsed = step.started === null ? 0 : Math.max(0, now - step.started);
  const fromProgress = step.progress >= ENOUGH ? (elapsed / step.progress) * (100 - step.progress) : null;
  if (step.expected === null) return fromProgress;
  const fromBefore = Math.max(0, step.expected - elapsed);
  // Near its end, the step's own progress says more than its duration on another day.
  if (fromProgress === null) return fromBefore;
  const trust = step.progress / 100;
  return fromProgress * trust + fromBefore * (1 - trust);
}

/** Seconds until a run is done, or null: the longest chain of steps that wait for each other. */
export function runLeft(run, now) {
  if (run.status !== "running") return null;
  const ends = new Map();
  for (const step of inOrder(run.steps)) {
    const left = stepLeft(step, now);
    if (left === null) return fromTotal(run, now);
    ends.set(step.name, left + Math.max(0, ...step.needs.map((name) => ends.get(name) ?? 0)));
  }
  return Math.max(0, ...ends.values());
}

function fromTotal({ progress, started }, now) {
  if (progress < ENOUGH || started === null) return null;
  return (Math.max(0, now - started) / progress) * (100 - progress);
}

// Steps may be written in any order; each comes here after those that it needs.
function inOrder(steps) {
  const known = new Map(steps.map((step) => [step.name, step]));
  const sorted = new Set();
  const add = (step) => {
    if (!step || sorted.has(step)) return;
    for (const name of step.needs) add(known.get(name));
    sorted.add(step);
  };
  for (const step of steps) add(step);
  return sorted;
}
