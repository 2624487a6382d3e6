// The types are those of `channels.ts`, which `tidewire types app:app page/channels.ts` writes; `tsc` checks this page by them.
import { connect } from "/connection/tidewire.js";

/** @typedef {import("./channels").Channels["room"]} Room @typedef {import("./channels").Channels["typing"]} Typing */

/** @type {(id: string) => any} */
const $ = (id) => document.getElementById(id);
const ROOMS = ["harbour", "kitchen", "garden"];
const me = (await (await fetch("/me")).json()).name;
/** @type {NodeListOf<HTMLElement>} */
const parts = document.querySelectorAll("aside, main, #logout");
for (const part of parts) part.hidden = !me;
$("login").hidden = Boolean(me);
$("login").onsubmit = async (event) => {
  event.preventDefault();
  const headers = { "Content-Type": "application/json" };
  await fetch("/login", { method: "POST", headers, body: JSON.stringify({ name: $("name").value }) });
  location.reload();
};
$("logout").onclick = async () => {
  await fetch("/logout", { method: "POST" });
  location.reload();
};

/** @type {import("/connection/tidewire.js").Client} */
let client;
/** @type {import("/connection/tidewire.js").Subscription<Room["published"]>} */
let room;
/** @type {import("/connection/tidewire.js").Subscription<Typing["published"]>} */
let typing;
let current, oldest;
const typers = new Map();

/** @param {Room["published"]} said */
function row({ user, text, at }) {
  const item = document.createElement("li");
  item.className = user === me ? "mine" : "";
  const head = document.createElement("small");
  head.textContent = `${user} · ${new Date(at).toLocaleTimeString([], { timeStyle: "short" })}`;
  const body = document.createElement("span");
  body.dir = "auto";
  body.textContent = text;
  item.append(head, body);
  return item;
}

/** @param {{ data: Room["published"] }} publication */
function show({ data }) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  $("messages").append(row(data));
  typers.delete(data.user);
  showTypers();
  if (atEnd || data.user === me) log.scrollTop = log.scrollHeight;
}

// Messages before the oldest that is here.
async function earlier() {
  const name = current;
  $("earlier").hidden = true;
  const { publications, position } = await client.history(`room:${name}`, { limit: 30, reverse: true, since: oldest });
  if (name !== current) return position; // another room was entered meanwhile
  oldest = { offset: publications.at(-1)?.offset ?? 0, epoch: position.epoch };
  $("earlier").hidden = publications.length < 30;
  const log = $("log");
  const height = log.scrollHeight;
  $("messages").prepend(...publications.toReversed().map(({ data }) => row(data)));
  log.scrollTop += log.scrollHeight - height;
  return position;
}
$("earlier").onclick = () => earlier().catch(() => ($("earlier").hidden = false));
$("log").onscroll = () => $("log").scrollTop < 40 && !$("earlier").hidden && $("earlier").click();

const people = () => look().catch(() => {}); // a person who is away asks again later
async function look() {
  const here = [...new Set((await room.presence()).map(({ user }) => user))].sort();
  $("people").replaceChildren(...here.map((user) => Object.assign(document.createElement("li"), { textContent: user })));
  /** @type {import("./channels").Calls["rooms"]["returns"]} */
  const counts = await client.rpc("rooms", ROOMS);
  $("rooms").replaceChildren(...ROOMS.map((name) => {
    const button = document.createElement("button");
    button.append(`# ${name}`, Object.assign(document.createElement("small"), { textContent: counts[name] || "" }));
    if (name === current) button.setAttribute("aria-current", "true");
    button.onclick = () => enter(name);
    return button;
  }));
}

function showTypers() {
  const names = [...typers.keys()].filter((name) => name !== me);
  $("typing").textContent = names.length ? `${names.join(", ")} ${names.length > 1 ? "are" : "is"} typing…` : "";
}

/** @param {{ data: Typing["published"] }} publication */
function typed({ data: { user } }) {
  clearTimeout(typers.get(user));
  typers.set(user, setTimeout(() => (typers.delete(user), showTypers()), 3_000));
  showTypers();
}

function enter(name) {
  room?.unsubscribe();
  typing?.unsubscribe();
  current = name;
  // First the newest messages, and from their position on what is new; it comes back here only if a gap cannot be filled.
  const getState = async () => {
    oldest = undefined;
    $("messages").replaceChildren();
    const position = await earlier();
    $("log").scrollTop = $("log").scrollHeight;
    return position;
  };
  room = client.subscribe(`room:${name}`, show, { joinLeave: true, getState });
  typing = client.subscribe(`typing:${name}`, typed);
  room.on("subscribed", people);
  room.on("join", people);
  room.on("leave", people);
  $("text").focus();
}

if (me) {
  client = connect("/connection/websocket");
  for (const state of /** @type {const} */ (["connecting", "connected", "disconnected"])) {
    client.on(state, () => ($("state").dataset.state = $("state").textContent = state));
  }
  enter(ROOMS[0]);
  let told = 0;
  $("text").oninput = () => {
    if (Date.now() - told < 1_500) return;
    told = Date.now();
    typing.publish({}).catch(() => {});
  };
  $("say").onsubmit = async (event) => {
    event.preventDefault();
    const text = $("text").value;
    if (!text.trim()) return;
    $("text").value = "";
    /** @type {Room["accepted"]} */
    const said = { text };
    try {
      await room.publish(said);
      $("problem").textContent = "";
    } catch (error) {
      $("text").value = text;
      $("problem").textContent = error.message;
    }
  };
}
