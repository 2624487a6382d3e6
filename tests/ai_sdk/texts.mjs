// Reads the texts of a channel with tidewire.js and with the published Centrifuge SDK, from the middle of one on.
// Arguments: the folder of the SDK's packages, tidewire.js, the port.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, module, port] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
globalThis.WebSocket ??= require("ws");
const { connect, readTexts } = await import(pathToFileURL(module).href);
const { Centrifuge } = await import(pathToFileURL(require.resolve("centrifuge")).href);

const address = `ws://127.0.0.1:${port}/connection/websocket`;
const sdk = new Centrifuge(address);
const other = sdk.newSubscription("chat:one");
const ends = [connect(address).subscribe("chat:one"), other].map(
  (subscription) =>
    new Promise((resolve) => {
      let count = 0;
      readTexts(subscription, ({ text, end }) => {
        count += 1;
        if (end) resolve({ text, end, count });
      });
    }),
);
other.subscribe();
sdk.connect();
console.log(JSON.stringify(await Promise.all(ends)));
process.exit(0);
