// Shows the AsyncAPI document of this server, and tries its channels and calls. Nothing is loaded from elsewhere.

const main = document.querySelector("main");
const place = new URL(main.dataset.document, document.baseURI);

/** Make an element; text goes in as text, never as HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
}

const pretty = (value) => JSON.stringify(value, null, 2);
const nameOf = (reference) => reference.$ref.split("/").at(-1);
const operationsOf = (doc, channel) =>
  Object.values(doc.operations ?? {}).filter((operation) => nameOf(operation.channel) === channel);

function showMessage(doc, name, action) {
  const message = doc.components.messages[name];
  const schema = message.payload.$ref ? doc.components.schemas[nameOf(message.payload)] : message.payload;
  const body = make("div", {}, make("h3", { textContent: "Schema" }), make("pre", { textContent: pretty(schema) }));
  for (const example of message.examples ?? []) {
    body.append(make("h3", { textContent: "Example" }), make("pre", { textContent: pretty(example.payload) }));
  }
  const what = schema.description ? ` — ${schema.description}` : "";
  return make("details", { className: `message ${action}` }, make("summary", {}, make("b", { textContent: name }), what), body);
}

function showOperation(doc, operation) {
  const names = operation.messages.map(nameOf);
  return [
    make("h3", { textContent: operation.summary }),
    ...names.map((name) => showMessage(doc, name, operation.action)),
  ];
}

/** The first example of what clients send. */
function exampleOf(doc, operations) {
  for (const operation of operations.filter(({ action }) => action === "receive")) {
    for (const name of operation.messages.map(nameOf)) {
      const [example] = doc.components.messages[name].examples ?? [];
      if (example) return pretty(example.payload);
    }
  }
  return "{}";
}

let shared;

/** The one client of this page; it is made when something is tried first. */
async function client(doc) {
  if (shared) return shared;
  const server = Object.values(doc.servers).find(({ protocol }) => protocol.startsWith("ws"));
  const base = server.pathname.replace(/websocket$/, "");
  const { connect } = await import(base + "tidewire.js");
  const token = document.querySelector("#token").value.trim();
  shared = connect(server.pathname, token ? { token } : {});
  return shared;
}

function log(list, text, problem = false) {
  list.append(make("li", { textContent: text, className: problem ? "problem" : "" }));
  list.lastChild.scrollIntoView({ block: "nearest" });
}

const words = (error) => `${error.code ?? ""} ${error.message}`.trim();

function tryChannel(doc, channel, operations) {
  const inputs = Object.keys(channel.parameters ?? {}).map((name) => [name, make("input", { name, required: true })]);
  const data = make("textarea", { value: exampleOf(doc, operations), name: "data", spellcheck: false });
  const list = make("ol", { className: "log" });
  list.setAttribute("aria-live", "polite");
  const address = () => inputs.reduce((text, [name, input]) => text.replace(`{${name}}`, () => input.value), channel.address);
  let subscription;
  const subscribe = make("button", {
    type: "button",
    textContent: "Subscribe",
    async onclick() {
      if (subscription) {
        subscription.unsubscribe();
        subscription = undefined;
        subscribe.textContent = "Subscribe";
        log(list, "unsubscribed");
        return;
      }
      const name = address();
      try {
        subscription = (await client(doc)).subscribe(name, (publication) => log(list, `${publication.offset ?? ""} ${JSON.stringify(publication.data)}`.trim()));
        subscription.on("subscribed", () => log(list, `subscribed to ${name}`));
        subscription.on("unsubscribed", (reason) => {
          if (!subscription) return;
          log(list, `not subscribed: ${words(reason ?? {})}`, true);
          subscription = undefined;
          subscribe.textContent = "Subscribe";
        });
        subscription.on("error", (error) => log(list, words(error), true));
        subscribe.textContent = "Unsubscribe";
      } catch (error) {
        log(list, words(error), true);
      }
    },
  });
  const publish = make("button", {
    type: "button",
    textContent: "Publish",
    async onclick() {
      try {
        await (await client(doc)).publish(address(), JSON.parse(data.value));
        log(list, "published");
      } catch (error) {
        log(list, words(error), true);
      }
    },
  });
  return [
    make("h3", { textContent: "Try it" }),
    ...inputs.map(([name, input]) => make("label", { textContent: name }, input)),
    make("label", { textContent: "message" }, data),
    subscribe, publish, list,
  ];
}

function tryCall(doc, channel, operations) {
  const data = make("textarea", { value: exampleOf(doc, operations), name: "data", spellcheck: false });
  const list = make("ol", { className: "log" });
  list.setAttribute("aria-live", "polite");
  const call = make("button", {
    type: "button",
    textContent: "Call",
    async onclick() {
      try {
        log(list, JSON.stringify(await (await client(doc)).rpc(channel["x-tidewire-rpc"], JSON.parse(data.value))));
      } catch (error) {
        log(list, words(error), true);
      }
    },
  });
  return [make("h3", { textContent: "Try it" }), make("label", { textContent: "data" }, data), call, list];
}

function showChannel(doc, id, channel) {
  const operations = operationsOf(doc, id);
  const isCall = channel["x-tidewire-rpc"] !== undefined;
  const body = make("div", {}, channel.description ? make("p", { textContent: channel.description }) : "");
  const parameters = Object.entries(channel.parameters ?? {});
  if (parameters.length) {
    const rows = parameters.map(([name, { description }]) => make("tr", {}, make("td", {}, make("code", { textContent: name })), make("td", { textContent: description ?? "" })));
    body.append(make("h3", { textContent: "Parameters" }), make("table", {}, ...rows));
  }
  for (const operation of operations) body.append(...showOperation(doc, operation));
  if (isCall) {
    const reply = operations[0].reply.messages.map(nameOf);
    body.append(make("h3", { textContent: "Reply" }), ...reply.map((name) => showMessage(doc, name, "send")));
  }
  if (doc.servers && Object.values(doc.servers).some(({ protocol }) => protocol.startsWith("ws"))) {
    body.append(...(isCall ? tryCall : tryChannel)(doc, channel, operations));
  }
  const title = make("b", { textContent: isCall ? channel["x-tidewire-rpc"] : channel.address });
  return make("details", { id }, make("summary", {}, title, channel.summary ? ` — ${channel.summary}` : ""), body);
}

function show(doc) {
  document.title = doc.info.title;
  const link = make("a", { href: place.href, textContent: "AsyncAPI document" });
  const parts = [
    make("h1", { textContent: doc.info.title }, make("small", { textContent: ` ${doc.info.version}` })),
    make("p", {}, doc.info.description ?? "", " ", link),
    make("h2", { textContent: "Servers" }),
    make("table", {}, ...Object.values(doc.servers ?? {}).map((server) => make("tr", {},
      make("td", {}, make("code", { textContent: `${server.protocol}://${server.host}${server.pathname}` })),
      make("td", { textContent: server.description ?? "" })))),
  ];
  const schemes = Object.entries(doc.components?.securitySchemes ?? {});
  parts.push(make("h2", { textContent: "Security" }));
  if (schemes.length) {
    const rows = schemes.map(([name, scheme]) => make("tr", {}, make("td", {}, make("code", { textContent: name })), make("td", { textContent: [scheme.type, scheme.scheme, scheme.name, scheme.description].filter(Boolean).join(", ") })));
    parts.push(make("table", {}, ...rows));
  }
  const token = make("input", { id: "token", autocomplete: "off", placeholder: "none: connect as this browser is logged in" });
  parts.push(make("label", { textContent: "Token for “Try it”" }, token));
  token.addEventListener("change", () => { shared?.disconnect(); shared = undefined; });
  const channels = Object.entries(doc.channels ?? {});
  const isCall = ([, channel]) => channel["x-tidewire-rpc"] !== undefined;
  parts.push(make("h2", { textContent: "Channels" }), ...channels.filter((entry) => !isCall(entry)).map(([id, channel]) => showChannel(doc, id, channel)));
  const calls = channels.filter(isCall);
  if (calls.length) parts.push(make("h2", { textContent: "Calls" }), ...calls.map(([id, channel]) => showChannel(doc, id, channel)));
  main.replaceChildren(...parts);
}

try {
  const answer = await fetch(place);
  if (!answer.ok) throw new Error(`${place.pathname} answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  main.replaceChildren(make("p", { className: "problem", textContent: `The document cannot be shown: ${error.message}` }));
}
