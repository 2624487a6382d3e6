import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const name = query.get("name") ?? `guest ${100 + Math.floor(Math.random() * 900)}`;
const board = query.get("board") ?? "main";
const COLORS = ["#0b7a75", "#b23c17", "#6a4fb3", "#1d6fb8", "#a8327e", "#5c7a0b"];
const color = COLORS[[...name].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % COLORS.length];
const canvas = $("canvas");
const ink = canvas.getContext("2d");
const SCALE = 10_000;
let strokes = [];

function draw({ points, color: hue, width }) {
  const place = ([x, y]) => [(x / SCALE) * canvas.width, (y / SCALE) * canvas.height];
  ink.strokeStyle = hue;
  ink.lineWidth = width * devicePixelRatio;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(...place(points[0]));
  for (const point of points) ink.lineTo(...place(point));
  ink.stroke();
}

function redraw() {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  for (const stroke of strokes) draw(stroke);
  canvas.dataset.strokes = strokes.length;
}
new ResizeObserver(redraw).observe(canvas);

function take({ data }) {
  if (data.kind === "cleared") strokes = [];
  else strokes.push(data);
  data.kind === "cleared" ? redraw() : draw(data);
  canvas.dataset.strokes = strokes.length;
}

const client = connect(`/connection/websocket?${new URLSearchParams({ name })}`);
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => ($("state").textContent = state));

const lines = client.subscribe(`board:${board}`, (publication) => (waiting ? waiting.push(publication) : take(publication)), { joinLeave: true });
let waiting = null;
lines.on("subscribed", async ({ wasRecovering, recovered, position }) => {
  people();
  if (wasRecovering && recovered && !waiting) return;
  // The whole board, page by page; what is drawn meanwhile comes behind it.
  waiting = [];
  strokes = [];
  for (let since = { offset: 0, epoch: position.epoch }; since.offset < position.offset; ) {
    const { publications } = await lines.history({ limit: 200, since });
    if (!publications.length) break;
    since = { offset: publications.at(-1).offset, epoch: position.epoch };
    for (const { data } of publications) data.kind === "cleared" ? (strokes = []) : strokes.push(data);
  }
  redraw();
  const later = waiting.filter(({ offset }) => offset > position.offset);
  waiting = null;
  later.forEach(take);
});

async function people() {
  const users = [...new Set((await lines.presence()).map(({ user }) => user))].sort();
  $("people").replaceChildren(...users.map((user) => Object.assign(document.createElement("span"), { className: "who", textContent: user })));
  for (const node of document.querySelectorAll(".cursor")) if (!users.includes(node.textContent)) node.remove();
}
for (const change of ["join", "leave"]) lines.on(change, people);

const pointers = client.subscribe(`cursors:${board}`, ({ data }) => {
  if (data.user === name) return;
  let node = [...document.querySelectorAll(".cursor")].find((found) => found.textContent === data.user);
  if (!node) {
    node = Object.assign(document.createElement("span"), { className: "cursor", textContent: data.user });
    $("board").append(node);
  }
  node.style.cssText = `left:${data.x / 100}%;top:${data.y / 100}%;background:${data.color}`;
});

let points = null;
let told = 0;
const at = ({ offsetX, offsetY }) => [Math.round((offsetX / canvas.clientWidth) * SCALE), Math.round((offsetY / canvas.clientHeight) * SCALE)].map((n) => Math.min(SCALE, Math.max(0, n)));
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  points = [at(event)];
};
canvas.onpointermove = (event) => {
  const [x, y] = at(event);
  if (points && points.length < 1_000) {
    draw({ points: [points.at(-1), [x, y]], color, width: 4 });
    points.push([x, y]);
  }
  if (Date.now() - told < 50) return;
  told = Date.now();
  pointers.publish({ x, y, color }).catch(() => {});
};
canvas.onpointerup = async () => {
  const drawn = points;
  points = null;
  if (drawn) await lines.publish({ color, width: 4, points: drawn }).catch(() => redraw());
};
$("clear").onclick = () => client.rpc("clear", board).catch(({ message }) => ($("state").textContent = message));
