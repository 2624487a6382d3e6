// Clients of the published SDK that track polled values: they show the first ones, then, after a line of input, the last.
// Arguments: the folder of the packages, the ports by commas, the encoding, the number of clients, which take turns, and
// for JSON the server's own module, which has half of them.

import { createRequire } from "node:module";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, list, encoding, count, module] = process.argv.slice(2);
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

function openOwn(_, number) {
  const client = own.connect(`ws://127.0.0.1:${ports[number % ports.length]}/connection/websocket`);
  const told = { values: {}, updates: 1, connects: 0, errors: [] }; // it is told nothing of a key that it may not track
  client.on("connected", () => (told.connects += 1));
  const show = (values, keys) => {
    told.updates += keys.length;
    told.values = Object.fromEntries(values);
  };
  const options = { getSignature: (keys) => getSignature({ keys }) };
  const prices = client.poll("prices:eu", ["a", "b", "secret"], show, options);
  prices.on("error", (error) => told.errors.push([error.code, error.message]));
  return told;
}

const own = await import(`data:text/javascript;base64,${readFileSync(module).toString("base64")}`);
const kinds = encoding === "json" ? [open, open, openOwn, openOwn] : [open];
const clients = Array.from({ length: Number(count) }, (_, number) => kinds[number % kinds.length](_, number));

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
