// Numbers and times for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const part = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const number = (value) => (value >= 100 ? whole : part).format(value);

export function bytes(value) {
  if (value < 1_024) return `${number(value)} B`;
  if (value < 1_048_576) return `${number(value / 1_024)} KiB`;
  return `${number(value / 1_048_576)} MiB`;
}

export function age(seconds) {
  if (seconds < 90) return `${whole.format(seconds)} s`;
  if (seconds < 5_400) return `${whole.format(seconds / 60)} min`;
  if (seconds < 172_800) return `${whole.format(seconds / 3_600)} h`;
  return `${whole.format(seconds / 86_400)} d`;
}

export const when = (seconds) => new Date(seconds * 1_000).toLocaleTimeString();
