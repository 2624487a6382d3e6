// Words for people: durations, sizes, states.

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A duration in seconds: "8 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < 10 * MINUTE) return pair(whole, MINUTE, "min", 1, "s");
  if (whole < HOUR) return `${Math.round(whole / MINUTE)} min`;
  return whole < DAY ? pair(whole, HOUR, "h", MINUTE, "min") : pair(whole, DAY, "d", HOUR, "h");
}

/** A duration that changes once a minute: for texts that are read out, or drawn anew, when they change. */
export const roughly = (seconds) => (seconds < MINUTE ? "under 1 min" : duration(seconds - (seconds % MINUTE)));

function pair(whole, large, largeName, small, smallName) {
  const rest = Math.floor((whole % large) / small);
  return `${Math.floor(whole / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

const RUN_STATES = {
  queued: "Queued",
  running: "Running",
  finished: "Finished",
  failed: "Failed",
  cancelled: "Cancelled",
  interrupted: "Interrupted",
};
const STEP_STATES = { waiting: "Waiting", running: "Running", done: "Done", failed: "Failed", stopped: "Stopped" };

export const runState = ({ status, position }) =>
  status === "queued" && position ? `Queued · number ${position} in line` : (RUN_STATES[status] ?? status);
export const stepState = ({ status }) => STEP_STATES[status] ?? status;

export const isActive = ({ status }) => status === "queued" || status === "running";
export const canResume = ({ status }) => ["failed", "cancelled", "interrupted"].includes(status);
