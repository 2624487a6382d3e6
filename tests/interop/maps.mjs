// A map with the published SDK: two clients set, change and remove entries; one comes late, one is away meanwhile.
// Arguments: the folder of the packages, the address, the encoding.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, address, encoding] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
globalThis.WebSocket ??= require("ws");
const { Centrifuge } = await load(encoding === "protobuf" ? "centrifuge/build/protobuf" : "centrifuge");
const bytes = (value) => (encoding === "protobuf" ? new TextEncoder().encode(JSON.stringify(value)) : value);
const value = (data) => (encoding === "protobuf" ? JSON.parse(new TextDecoder().decode(data)) : data);

function open() {
  const client = new Centrifuge(address);
  const subscription = client.newMapSubscription("board");
  const entries = {};
  const told = { entries, syncs: 0, updates: 0, client, subscription, errors: [] };
  subscription.on("sync", (context) => {
    told.syncs += 1;
    for (const key of Object.keys(entries)) delete entries[key];
    for (const entry of context.entries) entries[entry.key] = value(entry.data);
  });
  subscription.on("update", (context) => {
    told.updates += 1;
    if (context.removed) delete entries[context.key];
    else entries[context.key] = value(context.data);
  });
  subscription.on("error", (context) => told.errors.push(context.error.code));
  subscription.subscribe();
  client.connect();
  return told;
}

async function until(holds, what) {
  const end = Date.now() + 15_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`not within 15 s: ${what}: ${JSON.stringify([first, second].map((one) => [one.entries, one.errors]))}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
const shows = (told, expected) => () => JSON.stringify(Object.entries(told.entries).sort()) === JSON.stringify(Object.entries(expected).sort());

const [first, second] = [open(), open()];
await Promise.all([first.subscription.ready(10_000), second.subscription.ready(10_000)]);
await first.subscription.publish("a", bytes({ x: 1 }));
await second.subscription.publish("b", bytes("two"));
await first.subscription.publish("a", bytes({ x: 2 }));
for (const one of [first, second]) await until(shows(one, { a: { x: 2 }, b: "two" }), "both see it");
second.client.disconnect();
await first.subscription.publish("c", bytes(3));
await first.subscription.remove("b");
second.client.connect();
const late = open();
for (const one of [first, second, late]) await until(shows(one, { a: { x: 2 }, c: 3 }), "all see it");
const refused = await first.client.mapPublish("plain", "a", bytes(1)).then(() => 0, (error) => error.code);
const other = first.client.newMapSubscription("plain");
const unsubscribed = new Promise((resolve) => other.on("unsubscribed", (context) => resolve(context.code)));
other.subscribe();
console.log(
  JSON.stringify({
    late: late.entries,
    syncs: [first.syncs, second.syncs, late.syncs],
    errors: [first, second, late].flatMap((one) => one.errors),
    refused,
    unsubscribed: await unsubscribed,
  }),
);
process.exit(0);
