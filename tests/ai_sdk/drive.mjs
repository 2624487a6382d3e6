// Drives the published `Chat`, on which `useChat` stands, as a page does: asks, resumes in a second tab, and stops.
// Arguments: the folder of the packages, and the address of the server.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, base] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { Chat } = await load("@ai-sdk/react");
const { DefaultChatTransport } = await load("ai");

const errors = [];
const tab = (id, messages = []) =>
  new Chat({
    id,
    messages,
    transport: new DefaultChatTransport({ api: `${base}/api/chat` }),
    onError: (error) => errors.push(error.message),
  });
const text = (chat) =>
  (chat.messages.at(-1)?.parts ?? [])
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");

async function until(holds) {
  const end = Date.now() + 20_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error("not within 20 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const [first, question] = [tab("one"), { text: "200" }];
const asked = first.sendMessage(question);
await until(() => first.status === "streaming" && text(first).length > 20);
const second = tab("one", first.messages.slice(0, 1));
await Promise.all([asked, second.resumeStream()]);
const [late, idle] = [tab("one"), tab("nobody")];
await Promise.all([late.resumeStream(), idle.resumeStream()]);

const third = tab("two");
const endless = third.sendMessage({ text: "100000" });
await until(() => text(third).length > 20);
await third.stop(); // closes its own connection, and the answer goes on
await endless;
const cut = text(third).length;
const fourth = tab("two", third.messages.slice(0, 1));
const resumed = fourth.resumeStream();
await until(() => text(fourth).length > cut + 20);
await fetch(`${base}/api/chat/two/stream`, { method: "DELETE" });
await resumed;

const busy = errors.length;
const fifth = tab("three");
const long = fifth.sendMessage({ text: "100000" });
await until(() => text(fifth).length > 20);
await tab("three").sendMessage({ text: "1" });
await fetch(`${base}/api/chat/three/stream`, { method: "DELETE" });
await long;

console.log(
  JSON.stringify({
    first: text(first),
    second: text(second),
    late: text(late),
    statuses: [first, second, late, idle, fourth].map(({ status }) => status),
    idle: idle.messages.length,
    stopped: text(fourth).length > cut,
    errors: errors.slice(0, busy),
    refused: errors.slice(busy),
  }),
);
process.exit(0);
