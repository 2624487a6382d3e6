// The types are those of `channels.ts`, which `tidewire types app:app page/channels.ts` writes; `tsc` checks this page by them.
import { connect } from "/connection/tidewire.js";

/** @typedef {import("./channels").Channels["bell"]["published"]} Notification */
/** @typedef {import("./channels").Channels["seen"]["published"]} Seen */

/** @type {(id: string) => any} */
const $ = (id) => document.getElementById(id);
const name = new URLSearchParams(location.search).get("name") ?? "ann";
$("me").textContent = name;
$("other").href = `?name=${name === "ann" ? "bob" : "ann"}`;
let read = 0;
/** @type {import("/connection/tidewire.js").Publication<Notification>[]} */
let all = [];

const client = connect(`/connection/websocket?${new URLSearchParams({ name })}`);
for (const state of /** @type {const} */ (["connecting", "connected", "disconnected"])) {
  client.on(state, () => ($("state").dataset.state = $("state").textContent = state));
}

function render() {
  const unread = all.filter(({ offset }) => offset > read).length;
  $("count").hidden = !unread;
  $("count").textContent = unread > 99 ? "99+" : unread;
  document.title = `${unread ? `(${unread}) ` : ""}Notifications · tidewire`;
  $("list").replaceChildren(...all.toReversed().map(({ data, offset }) => {
    const item = document.createElement("li");
    item.className = offset > read ? "new" : "";
    const when = new Date(data.at * 1_000).toLocaleTimeString([], { timeStyle: "short" });
    item.append(Object.assign(document.createElement("span"), { textContent: data.title, dir: "auto" }));
    item.append(Object.assign(document.createElement("time"), { textContent: when }));
    return item;
  }));
}

client.subscribe(`bell:${name}`, (/** @type {import("/connection/tidewire.js").Publication<Notification>} */ publication) => {
  all = [...all, publication];
  render();
}, {
  getState: async () => {
    const { publications, position } = await client.history(`bell:${name}`, { limit: 200 });
    all = publications;
    render();
    return position; // later publications come live
  },
});

/** @type {import("/connection/tidewire.js").Subscription<Seen>} */
const seen = client.subscribe(`seen:${name}`, ({ data }) => {
  read = Math.max(read, data.offset);
  render();
});
seen.on("subscribed", async () => {
  const { publications } = await seen.history({ limit: 1, reverse: true });
  read = Math.max(read, publications[0]?.data.offset ?? 0);
  render();
});
$("bell").onclick = () => seen.publish({ offset: all.at(-1)?.offset ?? 0 }).catch(({ message }) => ($("problem").textContent = message));

/** @type {(path: string, body: object) => Promise<boolean>} */
async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const isTaken = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }).then(({ ok }) => ok, () => false);
  $("problem").textContent = isTaken ? "" : "The server is away or refuses: nothing was sent.";
  return isTaken;
}
$("send").onsubmit = async (event) => {
  event.preventDefault();
  if (await post(`/notify/${name}`, { title: $("title").value })) $("title").value = "";
};
$("order").onclick = () => post(`/orders/${name}`, { item: "tea" });
$("export").onclick = () => post(`/export/${name}`, {});
