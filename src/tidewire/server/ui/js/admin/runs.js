// The runs of pipelines: the step that each is at, and a button that cancels those that wait or run.

import { el } from "../dom.js";
import { get, post } from "./api.js";
import { List, fill } from "./lists.js";
import { age, when } from "./words.js";

/** Make the list in its section; `cancel` is called with a row. */
export const runsList = (section, cancel) => new List(section, async (search, limit, offset) => {
  const found = await get(`runs?${new URLSearchParams({ search, limit, offset })}`);
  return { total: found.total, rows: found.runs };
}, (rows) => fill(section.querySelector("table"), [
  ["Pipeline", (row) => row.pipeline, "name"],
  ["Sample", (row) => row.sample, "name"],
  ["State", (row) => el("span", { class: `state ${row.status}`, text: row.status })],
  ["Step", (row) => row.step, "long"],
  ["Progress", (row) => `${row.progress} %`, "number"],
  ["User", (row) => row.user || "a stranger", "name"],
  ["Started", (row) => (row.started === null ? "not yet" : when(row.started))],
  ["Took", (row) => (row.started === null ? "" : age((row.ended ?? Date.now() / 1_000) - row.started)), "number"],
  ["Error", (row) => row.error, "long"],
  ["Actions", (row) => (row.may_cancel ? el("button", { type: "button", class: "quiet", text: "Cancel", "aria-label": `Cancel ${row.pipeline} of ${row.sample}, ${row.id}`, on: { click: () => cancel(row) } }) : "")],
], rows, "No pipeline has run here."));

/** Cancel a run. */
export const cancelRun = (row) => post(`runs/${encodeURIComponent(row.id)}/cancel`);
