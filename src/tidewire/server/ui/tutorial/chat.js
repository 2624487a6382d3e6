// Plain chat: everybody gets every message. The number is chosen at random, so that every tab is somebody else.

import { endpoint, say, show } from "./frames.js";

const field = (id) => document.getElementById(id);
let ws = null;

function connect() {
  const client = field("client").value;
  if (ws) ws.onclose = null;
  ws?.close();
  field("send").disabled = true;
  say("Connecting…");
  let wasOpen = false;
  ws = new WebSocket(endpoint(`/ws/${client}`));
  ws.onopen = () => {
    wasOpen = true;
    field("send").disabled = false;
    say(`Connected as client #${client}`, true);
  };
  ws.onmessage = (event) => show("received", event.data);
  ws.onclose = (event) => {
    field("send").disabled = true;
    say(wasOpen ? `Closed (${event.code}). Trying again in 2 s.` : "No connection. Trying again in 2 s.", false);
    setTimeout(connect, 2000);
  };
}

field("connect").onsubmit = (event) => {
  event.preventDefault();
  connect();
};

field("form").onsubmit = (event) => {
  event.preventDefault();
  const isOpen = ws.readyState === WebSocket.OPEN;
  field("problem").textContent = isOpen ? "" : "Not connected at the moment: nothing was sent.";
  if (!isOpen || !field("message").value) return;
  ws.send(field("message").value);
  field("message").value = "";
};

field("client").value = String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);
connect();
