// The common part of the tutorial's pages: the list of frames, the state line, and the address of an endpoint.

const MOST = 300;
const list = document.getElementById("frames");
const state = document.getElementById("state");

/** The WebSocket address of a path on this server. */
export function endpoint(path) {
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

/** Add a frame to the list, the newest first: a text, or an ArrayBuffer shown as hexadecimal bytes; and when it came. */
export function show(way, data, when = new Date().toLocaleTimeString()) {
  const isText = typeof data === "string";
  const row = document.createElement("li");
  row.className = `${way}${isText ? "" : " binary"}`;
  row.append(part("span", "way", isText ? way : `${way} bytes`), part("span", "data", isText ? data : hexadecimal(data)));
  row.append(part("time", "", when));
  list.prepend(row);
  if (list.children.length > MOST) list.lastElementChild.remove();
}

/** Say how the connection is; `isOpen` is true, false, or null while it is being made. */
export function say(text, isOpen = null) {
  state.textContent = text;
  state.dataset.open = isOpen === null ? "" : isOpen ? "yes" : "no";
}

function part(tag, name, text) {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

function hexadecimal(buffer) {
  return [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
}
