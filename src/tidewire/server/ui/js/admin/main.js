// The admin page: one view at a time. The nodes tell their figures; a list is asked for when these have changed.

import { el } from "../dom.js";
import { confirmed, listenToForms } from "./actions.js";
import { NotAllowed, call, keepKey } from "./api.js";
import { Chart } from "./charts.js";
import { List, fill } from "./lists.js";
import { Live } from "./live.js";
import { cancelRun, runsList } from "./runs.js";
import { age, bytes, number, when } from "./words.js";

const byId = (id) => document.getElementById(id);
const VIEWS = ["nodes", "channels", "connections", "refusals", "runs", "act"];
const CHARTS = [["publications", "Publications a second"], ["deliveries", "Deliveries a second"], ["delivered_bytes", "Bytes a second"], ["refusals", "Refusals a second"]];
const charts = CHARTS.map(([, title]) => new Chart(title));
byId("charts").append(...charts.map((chart) => chart.node));

let view = "nodes";
let found = [];
let shown = "";

const button = (text, label, click) => el("button", { type: "button", class: "quiet", text, "aria-label": label, on: { click } });
const sum = (nodes, name) => nodes.reduce((total, node) => total + node[name], 0);

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// Nodes.

function figures(nodes) {
  const away = nodes.filter((node) => node.degraded).length;
  const rows = [
    ["Nodes", number(nodes.length)], ["Connections", number(sum(nodes, "connections"))], ["Channels", distinct(nodes)],
    ["Subscriptions", number(sum(nodes, "subscriptions"))], ["Unsent", bytes(sum(nodes, "unsent_bytes"))],
    ["Recoveries", number(sum(nodes, "recoveries"))], ["Gaps", number(sum(nodes, "gaps"))], ["Store", away ? "away" : "answers", away > 0],
  ];
  byId("figures").replaceChildren(...rows.map(([name, value, bad]) => el("div", { class: bad ? "bad" : "" }, el("dt", { text: name }), el("dd", { text: value }))));
}

/** How many channels all nodes have together: each node knows its own, and two may have the same one. */
function distinct(nodes) {
  const least = Math.max(0, ...nodes.map((node) => node.channels));
  const most = sum(nodes, "channels");
  return least === most ? number(most) : `${number(least)}–${number(most)}`;
}

const reported = new Map();
let charted = 0;

/** Reckon each node's rates from its last two reports, which come when that node has one; draw their sums each second. */
function rates(nodes) {
  for (const node of nodes) {
    const old = reported.get(node.node);
    if (old && node.uptime <= old.node.uptime) continue;
    const per = CHARTS.map(([name]) => (old ? Math.max(0, node[name] - old.node[name]) / (node.uptime - old.node.uptime) : 0));
    reported.set(node.node, { node, per });
  }
  const names = new Set(nodes.map((node) => node.node));
  for (const name of reported.keys()) if (!names.has(name)) reported.delete(name);
  if (performance.now() - charted < 950) return;
  charted = performance.now();
  charts.forEach((chart, index) => chart.add([...reported.values()].reduce((total, { per }) => total + per[index], 0)));
}

function troubles(nodes) {
  const sums = new Map();
  for (const node of nodes) {
    for (const metric of ["limits_reached", "refusals", "slow", "pipeline_runs", "pipeline_runs_ended"]) {
      for (const [kind, count] of Object.entries(node.parts[metric] ?? {})) {
        const isWait = metric === "limits_reached" && kind === "arrivals";
        const name = isWait ? "newcomers that waited for a turn, none refused:" : `${metric.replaceAll("_", " ")}: ${kind}`;
        sums.set(name, (sums.get(name) ?? 0) + count);
      }
    }
  }
  const items = [...sums].sort((one, other) => other[1] - one[1]).slice(0, 30).map(([name, count]) => el("li", { text: `${name} ${number(count)}` }));
  byId("troubles").replaceChildren(...(items.length ? items : [el("li", { text: "Nothing was refused, and no limit reached." })]));
}

function nodes() {
  if (!found.length) return; // none has said anything yet
  figures(found);
  troubles(found);
  fill(byId("nodes-table"), [
    ["Node", (node) => `${node.host} ${node.node}`],
    ["Process", (node) => String(node.process), "number"],
    ["Up", (node) => age(node.uptime), "number"],
    ["Connections", (node) => number(node.connections), "number"],
    ["Users", (node) => number(node.users), "number"],
    ["Channels", (node) => number(node.channels), "number"],
    ["Publications", (node) => number(node.publications), "number"],
    ["Deliveries", (node) => number(node.deliveries), "number"],
    ["Memory", (node) => bytes(node.resident_bytes), "number"],
    ["Store", (node) => el("span", { class: `state ${node.degraded ? "away" : ""}`, text: node.degraded ? "away" : "answers" })],
  ], found, "No node has answered.");
}

// Channels.

const positions = new Map();

function rate(row) {
  const now = performance.now() / 1_000;
  const old = positions.get(row.channel);
  positions.set(row.channel, { offset: row.offset, now });
  if (positions.size > 1_000) positions.delete(positions.keys().next().value);
  return old && now > old.now ? number(Math.max(0, row.offset - old.offset) / (now - old.now)) : "";
}

const channels = new List(byId("channels"), async (search, limit, offset) => {
  const found = await call("channel_list", { search, limit, offset });
  return { total: found.total, rows: found.channels };
}, (rows) => fill(byId("channels-table"), [
  ["Channel", (row) => el("a", { href: `#/channels/${encodeURIComponent(row.channel)}`, text: row.channel }), "name"],
  ["Subscribers", (row) => number(row.subscribers), "number"],
  ["A second", rate, "number"],
  ["Position", (row) => number(row.offset), "number"],
  ["History", (row) => (row.history_size ? `${number(row.history_size)} for ${age(row.history_seconds)}` : "none")],
  ["Pattern", (row) => row.pattern, "name"],
  ["Slow clients", (row) => row.slow],
], rows, "No channel has a subscriber here."));

async function channel(name) {
  const tell = (error) => [el("li", { text: error.message })];
  const [found, present, history] = await Promise.all([
    call("channel_list", { channel: name, limit: 1 }),
    call("presence", { channel: name }).catch((error) => error),
    call("history", { channel: name, limit: 50, reverse: true }).catch((error) => error),
  ]);
  if (shown !== name) return;
  const options = Object.entries(found.channels[0] ?? { subscribers: 0 });
  byId("channel-options").replaceChildren(...options.flatMap(([key, value]) => [el("dt", { text: key.replaceAll("_", " ") }), el("dd", { text: String(value) })]));
  const members = present instanceof Error ? null : Object.values(present.presence);
  byId("channel-members").replaceChildren(...(members === null ? tell(present) : members.length ? members.slice(0, 200).map((member) => el("li", { text: member.user || "a stranger" })) : [el("li", { text: "Nobody." })]));
  const kept = history instanceof Error ? tell(history) : history.publications.map((one) => el("li", {}, el("b", { text: `${one.offset}  ` }), JSON.stringify(one.data)));
  byId("channel-history").replaceChildren(...(kept.length ? kept : [el("li", { text: "Nothing is kept." })]));
}

// Connections.

async function end(row) {
  if (!(await confirmed(`Disconnect ${row.user || "a stranger"} (${row.client})? It does not come back by itself.`))) return;
  await act(() => call("disconnect", { user: row.user, client: row.client }));
}

async function leave(row) {
  if (!(await confirmed(`Unsubscribe ${row.user || "a stranger"} from ${row.channels[0]}?`))) return;
  await act(() => call("unsubscribe", { user: row.user, client: row.client, channel: row.channels[0] }));
}

async function act(work) {
  try {
    await work();
    await refresh();
  } catch (error) {
    notice(error.message);
  }
}

const connections = new List(byId("connections"), async (search, limit, offset) => {
  const found = await call("connection_list", { search, limit, offset });
  return { total: found.total, rows: found.connections };
}, (rows) => fill(byId("connections-table"), [
  ["User", (row) => row.user || "a stranger", "name"],
  ["Address", (row) => row.address],
  ["Age", (row) => age(row.age), "number"],
  ["Protocol", (row) => `${row.protocol} (${row.kind})`],
  ["State", (row) => el("span", { class: `state ${row.state}`, text: row.state })],
  ["Unsent", (row) => bytes(row.unsent), "number"],
  ["Channels", (row) => row.channels.slice(0, 2).join(", ") + (row.subscriptions > 2 ? ` and ${row.subscriptions - 2} more` : ""), "long"],
  ["Last error", (row) => row.error, "long"],
  ["Actions", (row) => el("span", {}, button("Disconnect", `Disconnect ${row.user || "a stranger"}, ${row.client}`, () => end(row)), ...(row.channels.length ? [button("Unsubscribe", `Unsubscribe ${row.user || "a stranger"} from ${row.channels[0]}`, () => leave(row))] : []))],
], rows, "Nobody is connected."));

// Refusals.

async function refusals() {
  const found = await call("refusals", { limit: 100 });
  fill(byId("refusals-table"), [
    ["When", (row) => when(row.time)],
    ["Kind", (row) => row.kind],
    ["Reason", (row) => row.why, "long"],
    ["User", (row) => row.user, "name"],
    ["Address", (row) => row.address],
    ["Channel", (row) => row.channel, "name"],
    ["Rule", (row) => row.rule, "name"],
  ], found.refusals, "Nothing was refused lately.");
}

const runs = runsList(byId("runs"), async (row) => {
  if (await confirmed(`Cancel ${row.pipeline} of ${row.sample}? The results of its finished steps are kept.`)) await act(() => cancelRun(row));
});

// One view at a time.

/** The input of a list: while it is the same, the list is not asked for again. */
const DEPENDS = {
  channels: ["publications", "subscriptions", "channels"],
  connections: ["connections", "connections_opened", "subscriptions", "unsent_bytes", "refusals"],
  refusals: ["refusals"],
};
let state = "";

function refresh() {
  if (view === "nodes") return nodes();
  state = stateOf();
  if (view === "channels") return shown ? Promise.all([channels.refresh(), channel(shown)]) : channels.refresh();
  if (view === "connections") return connections.refresh();
  if (view === "runs") return runs.refresh();
  return view === "refusals" ? refusals() : Promise.resolve();
}

/** Progress is in no figure: runs are asked for each second. */
const stateOf = () => JSON.stringify([view, shown, view === "runs" ? Math.floor(performance.now() / 1_000) : 0, ...(DEPENDS[view] ?? []).map((name) => sum(found, name))]);

function route() {
  const [, wanted = "", rest = ""] = location.hash.split("/");
  view = VIEWS.includes(wanted) ? wanted : "nodes";
  const before = shown;
  shown = view === "channels" ? decodeURIComponent(rest) : "";
  byId("channel").hidden = !shown;
  byId("channel-title").textContent = shown;
  for (const name of VIEWS) byId(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown && shown !== before) byId("channel-title").focus(); // what is asked for is above the list in which it was found
  tick();
}

let timer = 0;
let busy = false;
let asked = 0;

/** Show the view; one that somebody is in the middle of using waits. */
async function tick() {
  clearTimeout(timer);
  timer = 0;
  if (document.hidden) return; // when it is seen again, the figures come again
  if (busy || document.querySelector("dialog[open]") || document.activeElement?.closest("td")) {
    timer = setTimeout(tick, 500);
    return;
  }
  busy = true;
  asked = performance.now();
  try {
    await refresh();
    notice("");
  } catch (error) {
    if (error instanceof NotAllowed) byId("key-form").hidden = false;
    notice(error.message);
  }
  busy = false;
}

const live = new Live(
  (nodes) => {
    found = nodes;
    rates(found);
    if (view === "nodes") tick();
    else if (!timer && state !== stateOf()) timer = setTimeout(tick, Math.max(0, asked + 1_000 - performance.now()));
  },
  (error) => {
    if (error instanceof NotAllowed) byId("key-form").hidden = false;
    notice(error.message);
  },
);

function look() {
  if (document.hidden) live.close();
  else live.open();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value);
  byId("key-form").hidden = true;
  live.close();
  live.open();
  tick();
});
byId("remove-history").addEventListener("click", async () => {
  const name = shown;
  if (await confirmed(`Remove the history of ${name}? Nobody finds it again.`)) await act(() => call("history_remove", { channel: name }));
});
listenToForms();
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", look);
route();
look();
