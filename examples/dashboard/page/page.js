import { connect } from "/connection/tidewire.js";

const WINDOW = 600;
const FIRST = 60;
const number = (digits, unit = "") => (value) => `${value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits })}${unit}`;
const perSecond = (bytes) => (bytes < 2 ** 20 ? number(1, " KiB/s")(bytes / 2 ** 10) : number(1, " MiB/s")(bytes / 2 ** 20));
const CHARTS = [
  { source: "machine", field: "cpu", title: "Processor", show: number(0, " %"), floor: 0, ceiling: 100 },
  { source: "machine", field: "memory", title: "Memory", show: number(0, " %"), floor: 0, ceiling: 100 },
  { source: "machine", field: "sent", title: "Network, sent", show: perSecond, floor: 0 },
  { source: "gold", field: "value", title: "Gold", show: number(2, " $") },
  { source: "copper", field: "value", title: "Copper", show: number(2, " $") },
  { source: "cellar", field: "value", title: "Cellar", show: number(2, " °C") },
];

function chart(config) {
  const card = document.createElement("article");
  card.innerHTML = `<h2></h2><output><span></span><small></small></output>
    <svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img"><path class="area"/><path class="line"/></svg>
    <div class="range"><span data-from></span><span>now</span></div>`;
  card.querySelector("h2").textContent = config.title;
  card.querySelector("svg").setAttribute("aria-label", `${config.title}, the last ten minutes`);
  document.querySelector("#charts").append(card);
  return (points) => {
    const values = points.map(([, value]) => value);
    const low = config.floor ?? Math.min(...values);
    const high = Math.max(config.ceiling ?? Math.max(...values), low + 1e-9);
    const now = points.at(-1)[0];
    // The axis grows from the first minute to the last ten.
    const span = Math.max(FIRST, now - points[0][0]);
    const x = (at) => (600 * (1 - (now - at) / span)).toFixed(1);
    const y = (value) => (96 - (92 * (value - low)) / (high - low)).toFixed(1);
    // A second that is missing is a gap, not a line.
    const runs = [];
    points.forEach((point, i) => (i && point[0] - points[i - 1][0] < 5 ? runs.at(-1).push(point) : runs.push([point])));
    const lines = runs.map((run) => `M${run.map(([at, value]) => `${x(at)} ${y(value)}`).join("L")}`);
    card.querySelector(".line").setAttribute("d", lines.join(""));
    card.querySelector(".area").setAttribute("d", runs.map((run, i) => `${lines[i]}L${x(run.at(-1)[0])} 100L${x(run[0][0])} 100Z`).join(""));
    card.querySelector("output span").textContent = config.show(values.at(-1));
    card.querySelector("output small").textContent = `${config.show(Math.min(...values))} – ${config.show(Math.max(...values))}`;
    card.querySelector("[data-from]").textContent = span > FIRST ? `${Math.round(span / 60)} min ago` : `${FIRST} s ago`;
    card.dataset.points = points.length;
  };
}

const client = connect("/connection/websocket");
const shown = document.querySelector("#state");
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => (shown.dataset.state = shown.textContent = state));

for (const source of new Set(CHARTS.map((one) => one.source))) {
  const drawn = CHARTS.filter((one) => one.source === source).map((one) => ({ ...one, draw: chart(one) }));
  let readings = [];
  const take = (added) => {
    const known = new Map([...readings, ...added].map((reading) => [reading.at, reading]));
    readings = [...known.values()].sort((a, b) => a.at - b.at);
    const newest = readings.at(-1)?.at ?? 0;
    readings = readings.filter(({ at }) => newest - at <= WINDOW);
    if (!readings.length) return;
    for (const { field, draw } of drawn) draw(readings.map((reading) => [reading.at, reading[field]]));
  };
  const getState = async () => {
    const { publications, position } = await client.history(source, { limit: WINDOW });
    take(publications.map(({ data }) => data));
    return position; // later publications come live
  };
  client.subscribe(source, ({ data }) => take([data]), { getState });
}
