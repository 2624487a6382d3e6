// Channels: the module of the server at work. The code for it is in room.js, which this page prints beside it.

import { say, show } from "./frames.js";
import { enter } from "./room.js";

const field = (id) => document.getElementById(id);
let room = null;
let socket = null;
let isCut = false;
let waiting = null;
let missed = null;

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
  if (waiting) waiting.push(publication);
  else row(missed ? "missed" : "live", publication);
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
}

// The earlier publications; newer ones that come meanwhile stand above them.
async function arrived({ offset }) {
  const here = room;
  say("Connected", true);
  waiting = [];
  let before = [];
  try {
    before = (await here.history()).publications.filter((publication) => publication.offset <= offset);
  } catch (error) {
    if (here === room) complain(error);
  }
  if (here !== room) return;
  for (const publication of before.reverse()) row("history", publication);
  for (const publication of waiting) row("live", publication);
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

function complain(error) {
  field("problem").textContent = error.code < 100 ? "Not connected at the moment: nothing was sent." : error.message;
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
