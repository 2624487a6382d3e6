import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const name = new URLSearchParams(location.search).get("name") ?? (sessionStorage.name ??= `guest ${100 + Math.floor(Math.random() * 900)}`);
const canvas = $("arena");
const pen = canvas.getContext("2d");
let before = null;
let picture = null;
let came = 0;

const client = connect(`/connection/websocket?${new URLSearchParams({ name })}`);
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => ($("state").dataset.state = $("state").textContent = state));
client.subscribe("arena", ({ data }) => {
  [before, picture, came] = [picture, data, performance.now()];
  const mine = data.players[name];
  if (mine?.at) $("latency").textContent = `${Math.max(0, Math.round(performance.now() - mine.at))} ms`;
  canvas.dataset.players = Object.keys(data.players).sort().join(",");
  canvas.dataset.tick = data.tick;
  canvas.dataset.x = Math.round(mine?.x ?? -1);
  scores(data.players);
});

function scores(players) {
  const rows = Object.entries(players).sort(([, a], [, b]) => b.points - a.points).slice(0, 12);
  $("scores").replaceChildren(...rows.map(([player, { points }]) => {
    const item = document.createElement("li");
    item.className = player === name ? "me" : "";
    item.append(player, Object.assign(document.createElement("span"), { textContent: points }));
    return item;
  }));
}

const held = new Set();
let drag = null;
const KEYS = { ArrowLeft: [-1, 0], a: [-1, 0], ArrowRight: [1, 0], d: [1, 0], ArrowUp: [0, -1], w: [0, -1], ArrowDown: [0, 1], s: [0, 1] };
function steer() {
  const sum = [...held].map((key) => KEYS[key]).reduce(([x, y], [dx, dy]) => [x + dx, y + dy], drag ?? [0, 0]);
  const [dx, dy] = sum.map((part) => Math.max(-1, Math.min(1, part)));
  client.publish("steering", { dx, dy, at: performance.now() }).catch(() => {});
}
addEventListener("keydown", ({ key }) => KEYS[key] && !held.has(key) && (held.add(key), steer()));
addEventListener("keyup", ({ key }) => held.delete(key) && steer());
canvas.onpointerdown = canvas.onpointermove = (event) => {
  if (!event.buttons) return;
  const { left, top, width } = canvas.getBoundingClientRect();
  const mine = picture?.players[name];
  if (!mine) return;
  const [x, y] = [((event.clientX - left) / width) * 1000 - mine.x, ((event.clientY - top) / width) * 1000 - mine.y];
  const length = Math.hypot(x, y) || 1;
  drag = [x / length, y / length];
};
canvas.onpointerup = () => ((drag = null), steer());
setInterval(steer, 200);

// Between two pictures everything is drawn on its way from the one to the other.
function draw() {
  requestAnimationFrame(draw);
  if (!picture) return;
  const part = Math.min(1, (performance.now() - came) / 50);
  pen.clearRect(0, 0, 1000, 1000);
  pen.fillStyle = "#d9a514";
  for (const [x, y] of picture.coins) pen.fill(circle(x, y, 10));
  for (const [player, { x, y }] of Object.entries(picture.players)) {
    const from = before?.players[player] ?? { x, y };
    const [px, py] = [from.x + (x - from.x) * part, from.y + (y - from.y) * part];
    pen.fillStyle = `hsl(${[...player].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), 0) % 360} 55% 50%)`;
    pen.fill(circle(px, py, 18));
    pen.strokeStyle = player === name ? getComputedStyle(canvas).color : "transparent"; // oneself has a ring
    pen.lineWidth = 4;
    pen.stroke(circle(px, py, 22));
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.font = `${(13 * canvas.width) / canvas.clientWidth}px system-ui`; // as large on a phone
    pen.textAlign = "center";
    pen.fillText(player, px, py - 26);
  }
}
function circle(x, y, radius) {
  const path = new Path2D();
  path.arc(x, y, radius, 0, 7);
  return path;
}
draw();
