import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const ROOMS = ["harbour", "kitchen", "garden"];
const me = (await (await fetch("/me")).json()).name;
for (const part of document.querySelectorAll("aside, main, #logout")) part.hidden = !me;
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

let client, room, typing, current, oldest;
const typers = new Map();

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

function show({ data }) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  $("messages").append(row(data));
  typers.delete(data.user);
  showTypers();
  if (atEnd || data.user === me) log.scrollTop = log.scrollHeight;
}

// What was said before the oldest message that is here.
async function earlier() {
  const found = await room.history({ limit: 30, reverse: true, ...(oldest ? { since: oldest } : {}) });
  const { publications, position } = found;
  oldest = { offset: publications.at(-1)?.offset ?? 0, epoch: position.epoch };
  $("earlier").hidden = publications.length < 30;
  const log = $("log");
  const height = log.scrollHeight;
  $("messages").prepend(...publications.toReversed().map(({ data }) => row(data)));
  log.scrollTop += log.scrollHeight - height;
}
$("earlier").onclick = earlier;
$("log").onscroll = () => $("log").scrollTop < 40 && !$("earlier").hidden && earlier();

async function people() {
  const here = [...new Set((await room.presence()).map(({ user }) => user))].sort();
  $("people").replaceChildren(...here.map((user) => Object.assign(document.createElement("li"), { textContent: user })));
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

function typed({ data: { user } }) {
  clearTimeout(typers.get(user));
  typers.set(user, setTimeout(() => (typers.delete(user), showTypers()), 3_000));
  showTypers();
}

function enter(name) {
  room?.unsubscribe();
  typing?.unsubscribe();
  current = name;
  oldest = null;
  $("messages").replaceChildren();
  room = client.subscribe(`room:${name}`, show, { joinLeave: true });
  typing = client.subscribe(`typing:${name}`, typed);
  room.on("subscribed", async ({ wasRecovering, recovered, position }) => {
    if (wasRecovering && recovered) return; // what was missed has come already
    $("messages").replaceChildren();
    oldest = { offset: position.offset + 1, epoch: position.epoch };
    await earlier();
    $("log").scrollTop = $("log").scrollHeight;
    people();
  });
  for (const change of ["join", "leave"]) room.on(change, people);
  $("text").focus();
}

if (me) {
  client = connect("/connection/websocket");
  for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => ($("state").textContent = state));
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
    try {
      await room.publish({ text });
      $("problem").textContent = "";
    } catch (error) {
      $("text").value = text;
      $("problem").textContent = error.message;
    }
  };
}
