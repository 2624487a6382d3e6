// Shows the AsyncAPI document of an application, and tries its channels and calls. Nothing is loaded from elsewhere.

import { el } from "../dom.js";
import { Clients } from "./client.js";
import { Document } from "./document.js";
import { showMessage } from "./schema.js";
import { tryCall, tryChannel } from "./trying.js";

const main = document.querySelector("main");
const place = new URL(main.dataset.document, document.baseURI);

function named(title, rows) {
  const body = rows.map(([name, ...text]) => el("tr", {}, el("th", { scope: "row" }, el("code", { text: name })), el("td", { text: text.filter(Boolean).join(", ") })));
  return el("div", {}, el("h3", { text: title }), el("table", { class: "named" }, el("tbody", {}, ...body)));
}

/** Where to connect, and as which user. */
function connection(doc, clients, pill) {
  const servers = doc.servers.map(({ protocol, host, pathname, description }) => [`${protocol}://${host}${pathname}`, description]);
  const schemes = doc.security.map(([name, { type, scheme, name: key, description }]) => [name, type, scheme, key, description]);
  const input = el("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "token-hint" });
  const use = (event) => {
    event.preventDefault();
    clients.use(input.value.trim());
  };
  const token = el("form", { class: "field", on: { submit: use, change: use } }, el("label", { for: "token", text: "Token" }), input,
    el("p", { class: "hint", id: "token-hint", text: "For connections of this page. Empty: it connects as this browser is signed in, or as a stranger." }));
  return el("section", { class: "panel", id: "connection", "aria-labelledby": "connection-title" },
    el("div", { class: "panel-head" }, el("h2", { id: "connection-title", text: "Connection" }), pill),
    servers.length ? named("Servers", servers) : el("p", { class: "hint", text: "This application has no route for clients: include hub.client_router()." }),
    ...(schemes.length ? [named("Security", schemes)] : []), ...(doc.socket ? [token] : []));
}

function traits({ history, recovery, presence }) {
  const found = [history > 0 && `history ${history}`, recovery && "recovery", presence && "presence"].filter(Boolean);
  return el("span", { class: "traits" }, ...found.map((text) => el("span", { class: "trait", text })));
}

function direction(doc, title, operations) {
  const messages = operations.flatMap((operation) => doc.messages(operation));
  if (!messages.length) return [];
  return [el("h3", { text: title }), ...messages.map((one) => showMessage(doc, one))];
}

function section(doc, clients, part) {
  const { id, channel, isCall } = part;
  const parts = [];
  if (channel.description) parts.push(el("p", { class: "lead", text: channel.description }));
  const parameters = Object.entries(channel.parameters ?? {}).map(([name, { description }]) => [name, description]);
  if (parameters.length) parts.push(named("Parameters", parameters));
  if (isCall) {
    const [operation] = doc.operations(id);
    parts.push(...direction(doc, "Takes", [operation]), ...direction(doc, "Returns", [operation.reply]));
  } else {
    parts.push(...direction(doc, "Subscribers are shown", doc.operations(id, "send")));
    parts.push(...direction(doc, "Clients publish", doc.operations(id, "receive")));
  }
  if (doc.socket && !channel.servers) parts.push(el("h3", { text: "Try it" }), (isCall ? tryCall : tryChannel)(doc, clients, part));
  const title = isCall ? channel["x-tidewire-rpc"] : channel.address;
  return el("details", { class: "panel part", id },
    el("summary", {}, el("h2", {}, el("code", { text: title })), traits(channel["x-tidewire"] ?? {}),
      el("span", { class: "summary", text: channel.summary ?? "" })),
    el("div", { class: "part-body" }, ...parts));
}

function contents(doc) {
  const link = ({ id, channel, isCall }) => el("li", {}, el("a", { href: `#${id}`, text: isCall ? channel["x-tidewire-rpc"] : channel.address }));
  const list = (title, parts) => (parts.length ? [el("h2", { text: title }), el("ul", {}, ...parts.map(link))] : []);
  const { parts } = doc;
  const nav = document.querySelector("#contents");
  nav.append(...list("Channels", parts.filter(({ isCall }) => !isCall)), ...list("Calls", parts.filter(({ isCall }) => isCall)));
  nav.hidden = parts.length < 2;
}

/** Opens the part that the address names, or the only one. */
function openNamed(doc) {
  const chosen = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const part = chosen?.matches(".part") ? chosen : doc.parts.length === 1 ? document.querySelector(".part") : null;
  if (!part) return;
  part.open = true;
  if (part !== chosen) return;
  part.scrollIntoView();
  part.querySelector("summary").focus({ preventScroll: true });
}

function show(doc) {
  const { title, version, description } = doc.value.info;
  document.title = `Channels · ${title}`;
  document.querySelector("#application").textContent = title;
  const pill = el("p", { class: "pill", id: "pill", "data-state": "none", text: "Not connected: try a channel" });
  const clients = new Clients(doc, (state, text) => {
    pill.dataset.state = state;
    pill.textContent = text;
    document.querySelector("#said").textContent = text;
  });
  const { parts } = doc;
  main.replaceChildren(
    el("h1", {}, "Channels ", el("small", { text: `${title} ${version}` })),
    ...(description ? [el("p", { class: "lead", text: description })] : []),
    el("p", { class: "lead" }, "The channels and calls of this application. The same for programs: ", el("a", { href: place.href, text: "the AsyncAPI document" }), "."),
    connection(doc, clients, pill),
    ...(parts.length ? parts.map((part) => section(doc, clients, part)) : [el("p", { class: "lead", text: "No channel has a rule yet: add one by @hub.channel." })]),
  );
  contents(doc);
  openNamed(doc);
  addEventListener("hashchange", () => openNamed(doc));
}

try {
  const answer = await fetch(place);
  if (!answer.ok) throw new Error(`${place.pathname} answered ${answer.status}`);
  show(new Document(await answer.json(), place));
} catch (error) {
  main.replaceChildren(el("p", { class: "problem", role: "alert", text: `The document cannot be shown: ${error.message}` }));
}
