// Clients of the published SDK that track polled values: they show the first ones, then, after a line of input, the last.
// Arguments: the folder of the packages, the ports by commas, the encoding, the number of clients, which take turns.

import { createRequire } from "node:module";
import { once } from "node:events";
import { pathToFileURL } from "node:url";

const [folder, list, encoding, count] = process.argv.slice(2);
const ports = list.split(",");
const require = createRequire(`${folder}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
globalThis.WebSocket ??= require("ws");
const { Centrifuge } = await load(encoding === "protobuf" ? "centrifuge/build/protobuf" : "centrifuge");
const value = (data) => (encoding === "protobuf" ? JSON.parse(new TextDecoder().decode(data)) : data);

async function getSignature({ keys }) {
  const answer = await fetch(`http://127.0.0.1:${ports.at(-1)}/keys`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(keys),
  });
  return answer.json();
}

function open(_, number) {
  const port = ports[number % ports.length];
  const client = new Centrifuge(`ws://127.0.0.1:${port}/connection/websocket`, { minReconnectDelay: 50 });
  const subscription = client.newSharedPollSubscription("prices:eu", { getSignature });
  const told = { values: {}, updates: 0, connects: 0, errors: [] };
  client.on("connected", () => (told.connects += 1));
  subscription.on("update", (context) => {
    told.updates += 1;
    if (context.removed) delete told.values[context.key];
    else told.values[context.key] = value(context.data);
  });
  subscription.on("error", (context) => told.errors.push([context.type, context.error.code]));
  subscription.track(["a", "b", "secret"]);
  subscription.subscribe();
  client.connect();
  return told;
}

const clients = Array.from({ length: Number(count) }, open);

async function shown(expected) {
  const end = Date.now() + 30_000;
  const wanted = JSON.stringify(expected);
  while (!clients.every((one) => JSON.stringify(Object.entries(one.values).sort()) === wanted)) {
    if (Date.now() > end) throw new Error(`not within 30 s: ${wanted}: ${JSON.stringify(clients)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

await shown([["a", { x: 1 }], ["b", 1]]);
console.log("shown");
await once(process.stdin, "data");
await shown([["a", { x: 2 }]]);
console.log(JSON.stringify(clients));
process.exit(0);
