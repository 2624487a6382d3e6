import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const name = query.get("name") ?? (sessionStorage.name ??= `guest ${100 + Math.floor(Math.random() * 900)}`);
const board = query.get("board") ?? "main";
const client = connect(`/connection/websocket?${new URLSearchParams({ name })}`);
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => ($("state").dataset.state = $("state").textContent = state));
const say = (problem = "") => ($("problem").textContent = problem);

// The pen: one starts with a color of one's own.
const COLORS = { black: "#1c2b2d", red: "#c2371b", orange: "#c77700", green: "#3d7a1f", blue: "#1d6fb8", violet: "#6a4fb3", pink: "#b3327e" };
const WIDTHS = { thin: 30, medium: 70, thick: 200 };
const choice = (group, label, value, size = "") => {
  const item = document.createElement("label");
  item.innerHTML = '<input type="radio"><span></span>';
  Object.assign(item.firstChild, { name: group, value, ariaLabel: label });
  item.lastChild.style.cssText = group === "color" ? `background:${value}` : `width:${size};height:${size};background:var(--ink)`;
  return item;
};
$("colors").append(...Object.entries(COLORS).map(([label, value]) => choice("color", label, value)));
$("widths").append(...Object.entries(WIDTHS).map(([label, value]) => choice("width", label, value, `${4 + value / 12}px`)));
const own = (name.charCodeAt(0) + 2 * name.charCodeAt(name.length - 1)) % Object.keys(COLORS).length;
$("colors").children[own].firstChild.checked = $("widths").children[1].firstChild.checked = true;
const pen = () => ({ color: $("tools").color.value, width: Number($("tools").width.value) });

// The picture: the strokes of the channel, and on top those of one's own that are on their way to it.
const [WIDTH, HEIGHT] = [16_000, 12_000];
const canvas = $("canvas");
const ink = canvas.getContext("2d");
const sending = new Set();
let strokes = [];

function draw({ points, color, width }) {
  ink.strokeStyle = color;
  ink.lineWidth = width;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(...points[0]);
  for (const [x, y] of points) ink.lineTo(x, y + 0.1); // a dot, too, has a length
  ink.stroke();
}

function redraw() {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  ink.scale(canvas.width / WIDTH, canvas.height / HEIGHT);
  for (const stroke of [...strokes, ...sending]) draw(stroke);
  count();
}
new ResizeObserver(redraw).observe(canvas);

function count() {
  canvas.dataset.strokes = strokes.length;
  $("undo").disabled = !strokes.some(({ user }) => user === name);
}

/** Take one publication, in the order of the channel, which is the same on every page. */
function take({ kind, ...data }) {
  if (kind === "stroke") strokes.push(data);
  if (kind === "cleared") strokes = [];
  if (kind === "undone") strokes.splice(strokes.findLastIndex(({ user }) => user === data.user) >>> 0, 1);
}

/** Read the whole board, page by page, and return the position from which the subscription goes on. */
async function getState() {
  let position = { ...(await client.history(`board:${board}`)).position, offset: 0 };
  strokes = [];
  for (let page; page?.length !== 0; ) {
    page = (await client.history(`board:${board}`, { limit: 200, since: position })).publications;
    for (const { data, offset } of page) [position.offset] = [offset, take(data)];
  }
  redraw();
  return position;
}

const lines = client.subscribe(`board:${board}`, ({ data }) => {
  take(data);
  data.kind === "stroke" ? draw(data) : redraw();
  count();
}, { getState, joinLeave: true });

async function people() {
  const users = [...new Set((await lines.presence()).map(({ user }) => user))].sort();
  $("people").replaceChildren(...users.map((user) => Object.assign(document.createElement("span"), { className: "who", textContent: user })));
  for (const node of document.querySelectorAll(".cursor")) if (!users.includes(node.textContent)) node.remove();
}
for (const change of ["subscribed", "join", "leave"]) lines.on(change, () => people().catch(() => {}));

const pointers = client.subscribe(`cursors:${board}`, ({ data: { user, at: [x, y], trail, color, width } }) => {
  if (user === name) return;
  let node = [...document.querySelectorAll(".cursor")].find(({ textContent }) => textContent === user);
  if (!node) {
    node = Object.assign(document.createElement("span"), { className: "cursor", textContent: user });
    $("board").append(node);
  }
  node.style.cssText = `left:${(100 * x) / WIDTH}%;top:${(100 * y) / HEIGHT}%;background:${color}`;
  if (trail.length) draw({ points: trail, color, width });
});

// One's own hand.
let stroke = null;
let trail = [];
let told = 0;
const at = ({ offsetX, offsetY }) => [[offsetX, canvas.clientWidth, WIDTH], [offsetY, canvas.clientHeight, HEIGHT]].map(
  ([place, size, units]) => Math.round(Math.min(1, Math.max(0, place / size)) * units),
);

function tell(place) {
  pointers.publish({ ...pen(), at: place, trail: trail.slice(-100) }).catch(() => {}); // the next one is on its way
  trail = stroke ? [place] : [];
  told = Date.now();
}

async function lift() {
  const drawn = stroke;
  stroke = null;
  if (!drawn) return;
  sending.add(drawn);
  await lines.publish(drawn).then(() => say(), ({ message }) => say(`Your stroke was not kept: ${message}`));
  sending.delete(drawn);
  redraw();
}

canvas.onpointerdown = (event) => {
  if (!event.isPrimary || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  stroke = { ...pen(), points: [at(event)] };
  trail = [at(event)];
  draw(stroke);
};
canvas.onpointermove = (event) => {
  if (!event.isPrimary) return;
  const place = at(event);
  if (stroke) {
    draw({ ...stroke, points: [stroke.points.at(-1), place] });
    stroke.points.push(place);
    trail.push(place);
    if (stroke.points.length === 1_000) {
      lift(); // a longer one is several
      stroke = { ...pen(), points: [place] };
    }
  }
  if (Date.now() - told > 50) tell(place);
};
canvas.onpointerup = canvas.onpointercancel = (event) => {
  if (!event.isPrimary) return;
  tell(at(event));
  lift();
};

const call = (method) => client.rpc(method, board).then(() => say(), ({ message }) => say(message));
$("undo").onclick = () => call("undo");
$("clear").onclick = () => call("clear");
addEventListener("keydown", ({ key, ctrlKey, metaKey }) => key === "z" && (ctrlKey || metaKey) && !$("undo").disabled && call("undo"));
