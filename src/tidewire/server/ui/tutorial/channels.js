// Channels: the module of the server at work. The code for it is in room.js, which this page prints beside it.

import { say, show } from "./frames.js";
import { enter } from "./room.js";

const field = (id) => document.getElementById(id);
let room = null;
let socket = null;
let isCut = false;
let waiting = null;
let missed = null;
let start = 0;

/** The browser's WebSocket, or while the connection is cut one that goes nowhere. */
function Socket(url) {
  if (!isCut) return (socket = new WebSocket(url));
  const nowhere = { close() {} };
  setTimeout(() => nowhere.onclose?.({ code: 1006, reason: "the connection is cut" }));
  return nowhere;
}

function row(way, { data, offset }) {
  show(way, `${data?.name ?? "somebody"}: ${data?.text ?? JSON.stringify(data)}`, `offset ${offset}`);
}

function received(publication) {
  const way = missed ? "missed" : "live";
  if (waiting) waiting.push([way, publication]);
  else row(way, publication);
  missed?.push(publication);
}

function away(reason) {
  field("members").replaceChildren();
  say(`Not connected: ${reason || "the connection was lost"}`, false);
}

// A missed publication comes in the same turn, before anything newer.
function returned(recovered) {
  missed = [];
  queueMicrotask(() => {
    const count = missed.length === 1 ? "1 message" : `${missed.length} messages`;
    missed = null;
    if (recovered) say(`Connected again, recovered: ${count} missed`, true);
    else say("Connected again, not recovered: something was missed that is not kept any more", true);
  });
  if (waiting) read();
}

function arrived({ offset }) {
  say("Connected", true);
  waiting = [];
  start = offset;
  read();
}

// The earlier publications; newer ones that come meanwhile stand above them. A cut ends the read, which begins again after it.
async function read() {
  const here = room;
  let before = [];
  try {
    before = (await here.history()).publications.filter((publication) => publication.offset <= start);
  } catch (error) {
    if (here !== room || isBetween(error)) return;
    complain(error);
  }
  if (here !== room || !waiting) return;
  for (const publication of before.reverse()) row("history", publication);
  for (const [way, publication] of waiting) row(way, publication);
  waiting = null;
}

async function list(asked) {
  try {
    field("members").replaceChildren(...(await asked).map(person));
  } catch {
    // Lost again before the answer: the next join asks anew.
  }
}

function person(member) {
  const item = document.createElement("li");
  item.textContent = member.connInfo?.name || "somebody";
  if (room.isMine(member)) item.append(" (this tab)");
  return item;
}

/** Return whether the client failed for lack of a connection, and not by an answer of the server. */
const isBetween = (error) => error.code < 100;

function complain(error) {
  field("problem").textContent = isBetween(error) ? "Not connected at the moment: nothing was sent." : error.message;
}

function begin() {
  room?.leave();
  waiting = missed = null;
  const channel = field("channel").value;
  history.replaceState(null, "", `#${channel}`);
  field("second").href = location.href;
  field("frames").replaceChildren();
  field("members").replaceChildren();
  field("problem").textContent = "";
  say("Connecting…");
  room = enter(`playground:${channel}`, field("name").value, {
    Socket,
    show: received,
    entered: ({ wasRecovering, recovered, position }) => (wasRecovering ? returned(recovered) : arrived(position)),
    list,
    away,
  });
}

field("enter").onsubmit = (event) => {
  event.preventDefault();
  begin();
};

field("form").onsubmit = async (event) => {
  event.preventDefault();
  field("problem").textContent = "";
  try {
    await room.publish(field("message").value);
    field("message").select();
  } catch (error) {
    complain(error);
  }
};

field("cut").onclick = () => {
  isCut = !isCut;
  field("cut").textContent = isCut ? "Let it through again" : "Cut the connection";
  if (isCut) socket.close(4000, "the connection is cut");
  else dispatchEvent(new Event("online"));
};

if (/^#[a-z0-9-]{1,40}$/.test(location.hash)) field("channel").value = location.hash.slice(1);
field("name").value = `Visitor ${crypto.getRandomValues(new Uint16Array(1))[0] % 1_000}`;
begin();
field("code").textContent = await (await fetch("/ui/tutorial/room.js")).text();
