// Drives the published `centrifuge` package: a command a line comes in, an event a line goes out.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, transport, protocol, base] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { Centrifuge } = require(protocol === "protobuf" ? "centrifuge/build/protobuf" : "centrifuge");
const { EventSource } = require("eventsource");

const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const encoded = (data) => (protocol === "protobuf" ? new TextEncoder().encode(JSON.stringify(data)) : data);
const decoded = (data) => (protocol === "protobuf" ? JSON.parse(new TextDecoder().decode(data)) : data);

const questions = [];
const askToken = (channel) => new Promise((resolve) => { questions.push(resolve); say("token", { channel }); });

let client;
const subscriptions = {};

function connect({ asksToken }) {
  const scheme = transport === "websocket" ? "ws" : "http";
  client = new Centrifuge([{ transport, endpoint: `${scheme}://${base}/connection/${transport}` }], {
    websocket: require("ws"),
    eventsource: EventSource,
    fetch,
    readableStream: ReadableStream,
    emulationEndpoint: `http://${base}/emulation`,
    maxReconnectDelay: 500,
    ...(asksToken ? { getToken: () => askToken("") } : {}),
  });
  client.on("connected", () => say("connected"));
  client.on("connecting", ({ code }) => say("connecting", { code }));
  client.on("disconnected", ({ code }) => say("disconnected", { code }));
  client.on("subscribed", ({ channel, wasRecovering, recovered }) => say("subscribed", { channel, wasRecovering, recovered }));
  client.on("publication", ({ channel, data }) => say("publication", { channel, data: decoded(data) }));
  client.connect();
}

function subscribe({ channel, delta, asksToken, since }) {
  const subscription = client.newSubscription(channel, {
    ...(since ? { getState: async () => { say("state"); return since; } } : {}),
    ...(delta ? { delta: "fossil" } : {}),
    ...(asksToken ? { getToken: () => askToken(channel) } : {}),
  });
  subscriptions[channel] = subscription;
  subscription.on("subscribed", ({ wasRecovering, recovered, data }) => {
    say("subscribed", { channel, wasRecovering, recovered, data: data?.length === 0 ? null : data && decoded(data) });
  });
  subscription.on("unsubscribed", ({ code }) => say("unsubscribed", { channel, code }));
  subscription.on("publication", ({ data }) => say("publication", { channel, data: decoded(data) }));
  subscription.on("join", ({ info }) => say("join", { channel, user: info.user }));
  subscription.subscribe();
}

const calls = {
  publish: async ({ channel, data }) => { await client.publish(channel, encoded(data)); },
  presence: async ({ channel }) => Object.values((await client.presence(channel)).clients).map(({ user }) => user),
  stats: async ({ channel }) => { const found = await client.presenceStats(channel); return [found.numClients, found.numUsers]; },
  history: async ({ channel, limit }) => (await client.history(channel, { limit })).publications.map(({ data }) => decoded(data)),
  rpc: async ({ method, data }) => decoded((await client.rpc(method, encoded(data))).data),
};

async function obey(command) {
  if ("token" in command) questions.shift()(command.token);
  else if (command.do === "connect") connect(command);
  else if (command.do === "subscribe") subscribe(command);
  else if (command.do === "unsubscribe") subscriptions[command.channel].unsubscribe();
  else {
    try {
      say("result", { value: (await calls[command.do](command)) ?? null });
    } catch (error) {
      say("error", { code: error.code });
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) obey(JSON.parse(line));
process.exit(0);
