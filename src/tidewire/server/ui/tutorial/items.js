// Items: path, query and cookie parameters of a WebSocket, and the look of a refused handshake.

import { endpoint, say, show } from "./frames.js";

const field = (id) => document.getElementById(id);
let ws = null;

function enable(isOpen) {
  field("send").disabled = !isOpen;
  field("disconnect").disabled = !isOpen;
}

function address() {
  const url = endpoint(`/items/${encodeURIComponent(field("item").value)}/ws`);
  if (field("token").value) url.searchParams.set("token", field("token").value);
  if (field("q").value) url.searchParams.set("q", field("q").value);
  return url;
}

// A page cannot read why a handshake was refused, so it names the endpoint's requirements.
function explain() {
  const reasons = [];
  if (!field("token").value) reasons.push("there is no token (and no cookie “session”)");
  if (!/^[+-]?\d*$/.test(field("q").value)) reasons.push(`q is “${field("q").value}”, which is no integer`);
  return reasons.join(", and ") || "the server did not take it, or cannot be reached";
}

field("connect").onsubmit = (event) => {
  event.preventDefault();
  if (ws) ws.onclose = null;
  ws?.close();
  field("problem").textContent = "";
  say("Connecting…");
  enable(false);
  let wasOpen = false;
  ws = new WebSocket(address());
  ws.onopen = () => {
    wasOpen = true;
    enable(true);
    say(`Connected to item ${field("item").value}`, true);
    field("message").focus();
  };
  ws.onmessage = (event) => show("received", event.data);
  ws.onclose = (event) => {
    enable(false);
    say(wasOpen ? `Closed (${event.code})` : "Refused", false);
    if (!wasOpen) field("problem").textContent = `The handshake was refused: ${explain()}.`;
  };
};

field("disconnect").onclick = () => ws.close(1000);

field("form").onsubmit = (event) => {
  event.preventDefault();
  if (ws?.readyState !== WebSocket.OPEN) return;
  ws.send(field("message").value);
  show("sent", field("message").value);
  field("message").select();
};

enable(false);
