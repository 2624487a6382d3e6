// Echo: send text or bytes to /ws and show every frame.

import { endpoint, say, show } from "./frames.js";

const form = document.getElementById("form");
const message = document.getElementById("message");
const problem = document.getElementById("problem");
let ws;

function connect() {
  say("Connecting…");
  ws = new WebSocket(endpoint("/ws"));
  ws.binaryType = "arraybuffer";
  ws.onopen = () => say("Connected", true);
  ws.onmessage = (event) => show("received", event.data);
  ws.onclose = (event) => {
    say(`Closed (${event.code}). Trying again in 2 s.`, false);
    setTimeout(connect, 2000);
  };
}

form.onsubmit = (event) => {
  event.preventDefault();
  problem.textContent = ws.readyState === WebSocket.OPEN ? "" : "Not connected at the moment: nothing was sent.";
  if (problem.textContent) return;
  const data = event.submitter?.value === "bytes" ? new TextEncoder().encode(message.value).buffer : message.value;
  ws.send(data);
  show("sent", data);
  message.select();
};

connect();
