// Runs the body of an async function with the module of the server: `say` writes a line, `told` waits for one.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

const [file, url, websocket] = process.argv.slice(2);
if (websocket) globalThis.WebSocket = (await import(websocket)).default;
const m = await import(`data:text/javascript;base64,${(await readFile(file)).toString("base64")}`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => (await lines.next()).value;
const say = (value) => console.log(JSON.stringify(value ?? null));
const told = async () => JSON.parse(await next());
const until = async (condition, limit = 15_000) => {
  for (const end = Date.now() + limit; !condition(); await new Promise((resolve) => setTimeout(resolve, 10))) {
    if (Date.now() > end) throw new Error(`not in time: ${condition}`);
  }
};

const body = JSON.parse(await next());
const AsyncFunction = (async () => {}).constructor;
await new AsyncFunction("m", "url", "say", "told", "until", body)(m, url, say, told, until);
process.exit(0);
