// The playground: two players on one channel, the publications, and the faults.

import { el } from "../dom.js";
import { base, call, failure } from "../admin/api.js";
import { Player } from "./client.js";
import { View } from "./view.js";

const byId = (id) => document.getElementById(id);
const LINES = 60;
const REPEATS = 40;
const AT_ONCE = 14;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Channels to begin with, and an example of their messages. */
const suggested = new Map(JSON.parse(document.documentElement.dataset.channels));
let channel = suggested.keys().next().value ?? "demo";
let rows = new Map();
let processes = new Map();
let published = 0;

// The words on the page.

function tell(text, kind = "") {
  const time = new Date().toLocaleTimeString();
  byId("log").prepend(el("li", {}, el("time", { text: time }), el("span", { class: kind, text })));
  while (byId("log").children.length > LINES) byId("log").lastChild.remove();
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// The players.

const players = [0, 1].map((index) => new Player({
  changed: draw,
  told: tell,
  saw: (offset) => players[1 - index].published(offset),
}));
const views = [0, 1].map((index) => new View(document.querySelector(`[data-client="${index}"]`), index, players[index], {
  cut: () => act(() => cut(index)),
  freeze: () => act(() => freeze(index)),
  kill: () => act(() => kill(index)),
}));

let planned = 0;
function draw() {
  planned ||= requestAnimationFrame(() => {
    planned = 0;
    views.forEach((view, index) => {
      const row = rows.get(players[index].id);
      view.draw(row, row && processes.get(row.node));
    });
  });
}

function connect() {
  notice("");
  channel = byId("channel").value.trim();
  players.forEach((player, index) => player.connect(byId(`user-${index}`).value.trim(), channel));
  byId("show").querySelector("[data-name]").textContent = players[0].user;
  tell(`${players[0].user} and ${players[1].user} subscribe to ${channel}.`);
  const test = [
    ["trial", { channel, user: players[0].user, count: 14, seconds: 1 }],
    ["cut", { user: players[0].user, seconds: seconds() }],
    ["freeze", { user: players[1].user, seconds: seconds() }],
    ["hang", { seconds: seconds() }],
    ["kill", { user: players[0].user }],
  ];
  // A phone breaks the lines at spaces and behind slashes.
  const spaced = (body) => JSON.stringify(body, null, 1).replace(/\n */g, " ");
  const calls = test.map(([name, body]) => `curl ${location.origin}${base}/api/${name} \\\n  -d '${spaced(body)}'`).join("\n");
  byId("calls").replaceChildren(...calls.split(/(?<=[/])/).flatMap((part) => [part, el("wbr")]));
}

// The actions.

const seconds = () => Math.min(30, Math.max(0.5, Number(byId("seconds").value) || 4));

async function act(work) {
  notice("");
  try {
    await work();
  } catch (error) {
    notice(error.message);
  }
}

async function break_(index, kind, method, body, text) {
  const player = players[index];
  if (!player.id) throw new Error(`${player.user} is not connected.`);
  player.suffer(kind, body.seconds ?? 30);
  try {
    await call(method, { client: player.id, ...body });
  } catch (error) {
    // a worker that is killed may not have answered
    if (kind !== "killed" || !error.temporary) {
      player.spare();
      throw error;
    }
  }
  tell(text(player.user));
}

function cut(index) {
  const lasts = seconds();
  return break_(index, "cut", "cut", { seconds: lasts }, (user) => `${user}’s cable is cut for ${lasts} s. The server does not know.`);
}

function freeze(index) {
  const lasts = seconds();
  return break_(index, "frozen", "freeze", { seconds: lasts }, (user) => `${user} takes nothing for ${lasts} s. Its outbox fills.`);
}

async function kill(index) {
  const row = rows.get(players[index].id);
  await break_(index, "killed", "kill", {}, (user) => `The worker that ${user} is on is killed.`);
  players.forEach((player, other) => {
    if (other !== index && row && rows.get(player.id)?.node === row.node) player.suffer("killed", 30);
  });
}

function message(number) {
  try {
    const data = JSON.parse(byId("message").value.replaceAll("{n}", String(number)));
    return byId("large").checked && data && typeof data === "object" ? { ...data, filling: "x".repeat(40_000) } : data;
  } catch {
    return undefined;
  }
}

/** Publish messages together; returns those of which nobody knows whether they are kept. */
async function publishAll(commands) {
  const left = [];
  for (let start = 0; start < commands.length; start += AT_ONCE) {
    const part = commands.slice(start, start + AT_ONCE);
    let replies;
    try {
      ({ replies } = await call("batch", { parallel: true, commands: part.map((publish) => ({ publish })) }));
    } catch (error) {
      if (!error.temporary) throw error;
      replies = part.map(() => ({ error: { code: 100, message: error.message } }));
    }
    replies.forEach(({ publish, error }, index) => {
      if (error && !failure(error).temporary) throw failure(error);
      if (error) left.push(part[index]);
      else if (publish.offset) for (const player of players) player.published(publish.offset);
    });
  }
  return left;
}

async function publish(count) {
  const data = Array.from({ length: count }, () => message(++published));
  if (data.includes(undefined)) throw new Error('The message is no JSON: write {"text": "message {n}"}, or "hello {n}" in quotes.');
  // the keys make a repetition harmless
  let left = data.map((one, index) => ({ channel, data: one, idempotency_key: `${performance.timeOrigin}-${published - count + index}` }));
  let repeated = 0;
  const began = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    left = await publishAll(left);
    if (!left.length) break;
    if (attempt >= REPEATS) throw new Error(`${left.length} messages stay unconfirmed.`);
    repeated = Math.max(repeated, left.length);
    await pause(500);
  }
  const took = (performance.now() - began) / 1_000;
  tell(`${count} published${took > 1 ? ` in ${took.toFixed(1)} s` : ""}${repeated ? `; ${repeated} were unconfirmed, and repeated with their keys` : ""}.`);
}

byId("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  act(() => publish(Math.min(500, Math.max(1, Math.round(Number(byId("count").value))))));
});
byId("store").addEventListener("submit", (event) => {
  event.preventDefault();
  const lasts = seconds();
  act(async () => {
    await call("hang", { seconds: lasts });
    tell(`The store does not answer for ${lasts} s.`);
  });
});
byId("channel-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
byId("show").addEventListener("click", () => act(async () => {
  byId("show").disabled = true;
  try {
    await cut(0);
    await publish(14);
  } finally {
    byId("show").disabled = false;
  }
}));

// Where they are, and how much waits for them.

async function look() {
  try {
    const [found, status] = await Promise.all([call("connection_list", { limit: 500, channel }), call("status")]);
    rows = new Map(found.connections.map((row) => [row.client, row]));
    processes = new Map(status.nodes.map((node) => [node.node, node.process]));
  } catch {
    // while the store hangs, nobody can say
  }
  draw();
}

async function keepLooking() {
  for (;;) {
    if (!document.hidden) await look();
    await pause(700);
  }
}

setInterval(draw, 250);
function suggest(names) {
  byId("channels").replaceChildren(...[...new Set([...suggested.keys(), ...names])].map((value) => el("option", { value })));
}

/** Begin with an example where the channel has a type. */
function exemplify() {
  const example = suggested.get(byId("channel").value.trim());
  if (example !== undefined && example !== null) byId("message").value = JSON.stringify(example);
}

byId("channel").value = channel;
byId("channel").addEventListener("change", exemplify);
exemplify();
suggest([]);
call("channel_list", { limit: 100 }).then(({ channels }) => suggest(channels.map((one) => one.channel))).catch(() => {});
connect();
keepLooking();
