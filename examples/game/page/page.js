import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const name = new URLSearchParams(location.search).get("name") ?? (sessionStorage.name ??= `guest ${100 + Math.floor(Math.random() * 900)}`);
const canvas = $("arena");
const pen = canvas.getContext("2d");
let before = null;
let picture = null;
let came = 0;
let pause = 50;
let latency = 0;
const sent = new Set();
const taken = []; // coins that somebody has just got

$("me").textContent = name;
const client = connect(`/connection/websocket?${new URLSearchParams({ name })}`);
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => {
  $("state").dataset.state = $("state").textContent = state;
  canvas.classList.toggle("away", state !== "connected");
});
client.subscribe("arena", ({ data }) => {
  const now = performance.now();
  pause = Math.min(200, 0.8 * pause + 0.2 * (now - came || 50)); // how long a tick takes here, on the average
  [before, picture, came] = [picture, data, now];
  const mine = data.players[name];
  if (sent.has(mine?.at)) { // the picture in which my own steering shows for the first time
    latency = latency ? 0.7 * latency + 0.3 * (now - mine.at) : now - mine.at;
    $("latency").textContent = `${Math.round(latency)} ms`;
    sent.clear();
  }
  before?.coins.forEach(([x, y], number) => data.coins[number][0] !== x && taken.push({ x, y, at: now }));
  canvas.dataset.players = Object.keys(data.players).sort().join(",");
  canvas.dataset.tick = data.tick;
  canvas.dataset.x = Math.round(mine?.x ?? -1);
  scores(data.players);
});

function scores(players) {
  const rows = Object.entries(players).sort(([, a], [, b]) => b.points - a.points).slice(0, 12);
  $("scores").replaceChildren(...rows.map(([player, { points, away }]) => {
    const item = document.createElement("li");
    item.className = `${player === name ? "me" : ""} ${away ? "away" : ""}`;
    const dot = Object.assign(document.createElement("i"), { style: `background: ${color(player)}` });
    item.append(dot, player, Object.assign(document.createElement("span"), { textContent: points }));
    return item;
  }));
}
function color(player) {
  const number = [...player].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 9973, 7);
  return `hsl(${(number * 137.5) % 360} 60% 50%)`;
}

// Steering: keys, or a finger that the player runs after. It is told when it changes, and five times a second.
const held = new Set();
let finger = null;
const KEYS = { arrowleft: [-1, 0], a: [-1, 0], arrowright: [1, 0], d: [1, 0], arrowup: [0, -1], w: [0, -1], arrowdown: [0, 1], s: [0, 1] };
function wanted() {
  const mine = picture?.players[name];
  if (!finger || !mine) return [...held].map((key) => KEYS[key]).reduce(([x, y], [dx, dy]) => [x + dx, y + dy], [0, 0]);
  const [x, y] = [finger.x - mine.x, finger.y - mine.y];
  const length = Math.max(40, Math.hypot(x, y)); // close to the finger it slows down
  return [x / length, y / length];
}
function steer() {
  if (client.state !== "connected") return; // else it would be sent when it is stale
  const [dx, dy] = wanted().map((part) => Math.max(-1, Math.min(1, part)));
  const at = performance.now();
  sent.add(at);
  client.publish("steering", { dx, dy, at }).catch(() => {});
}
addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (!KEYS[key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault(); // the page does not scroll
  if (!held.has(key)) held.add(key), steer();
});
addEventListener("keyup", ({ key }) => held.delete(key.toLowerCase()) && steer());
addEventListener("blur", () => (held.clear(), steer()));
canvas.onpointerdown = canvas.onpointermove = (event) => {
  if (!event.buttons) return;
  if (event.type === "pointerdown") canvas.setPointerCapture(event.pointerId);
  const { left, top, width } = canvas.getBoundingClientRect();
  const isNew = !finger;
  finger = { x: ((event.clientX - left) / width) * 1000, y: ((event.clientY - top) / width) * 1000 };
  if (isNew) steer();
};
canvas.onpointerup = canvas.onpointercancel = () => ((finger = null), steer());
setInterval(() => (finger ? steer() : 0), 50);
setInterval(steer, 200);

// Between two pictures everything is drawn on its way from the one to the other.
function draw() {
  requestAnimationFrame(draw);
  if (!picture) return;
  const now = performance.now();
  const part = Math.min(1, (now - came) / pause);
  const ink = getComputedStyle(canvas).color;
  pen.clearRect(0, 0, 1000, 1000);
  pen.fillStyle = pen.strokeStyle = "#d9a514";
  for (const [x, y] of picture.coins) pen.fill(circle(x, y, 12));
  while (taken.length && now - taken[0].at > 400) taken.shift();
  pen.lineWidth = 5;
  for (const { x, y, at } of taken) {
    pen.globalAlpha = 1 - (now - at) / 400;
    pen.stroke(circle(x, y, 12 + (now - at) / 8));
  }
  const size = (13 * canvas.width) / canvas.clientWidth; // as large on a phone
  pen.font = `${size}px system-ui`;
  pen.textAlign = "center";
  for (const [player, { x, y, away }] of Object.entries(picture.players)) {
    const from = before?.players[player] ?? { x, y };
    const [px, py] = [from.x + (x - from.x) * part, from.y + (y - from.y) * part];
    pen.globalAlpha = away ? 0.35 : 1;
    pen.fillStyle = color(player);
    pen.fill(circle(px, py, 20));
    pen.strokeStyle = player === name ? ink : "transparent"; // oneself has a ring
    pen.lineWidth = 4;
    pen.stroke(circle(px, py, 25));
    pen.fillStyle = ink;
    pen.fillText(player, px, py > 100 ? py - 33 : py + 30 + size); // inside of the arena
  }
  pen.globalAlpha = 1;
}
function circle(x, y, radius) {
  const path = new Path2D();
  path.arc(x, y, radius, 0, 7);
  return path;
}
draw();
