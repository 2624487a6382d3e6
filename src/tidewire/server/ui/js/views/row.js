// One line of the log: a message, an event or a gap, with the day and the "new" mark that come before it.

import { el } from "../dom.js";
import { avatar, dayName, dayOf, fullTime, linked, timeOfDay } from "../text.js";

const TOGETHER = 5 * 60_000;

/** Does `entry` go on where `before` stopped: the same person, a little later, the same day? */
function continues(entry, before) {
  if (!before || entry.kind !== "message" || before.kind !== "message") return false;
  return entry.sender === before.sender && entry.time - before.time < TOGETHER && dayOf(entry.time) === dayOf(before.time);
}

/** The row of the log for an entry: its key, a stamp that changes when it must be drawn anew, and how to draw it. */
export function row(entry, before, { me, freshKey, actions }) {
  const isFresh = entry.key === freshKey;
  const isNewDay = entry.kind !== "gap" && (!before || before.kind === "gap" || dayOf(entry.time) !== dayOf(before.time));
  const isFirst = isFresh || isNewDay || !continues(entry, before);
  const day = isNewDay ? dayName(entry.time) : "";
  const { state = "sent", error = "" } = entry;
  const stamp = `${isFirst}|${isFresh}|${day}|${state}|${error}|${entry.waitingFor ?? ""}`;
  return { key: entry.key, stamp, make: () => draw(entry, { me, isFirst, isFresh, day, actions }) };
}

function draw(entry, { me, isFirst, isFresh, day, actions }) {
  const before = [];
  if (day) before.push(el("p", { class: "day" }, el("span", { text: day })));
  if (isFresh) before.push(el("p", { class: "fresh" }, el("span", { text: "New" })));
  if (entry.kind !== "message") return el("li", { class: `line ${entry.kind}` }, ...before, line(entry));
  const isMine = entry.sender === me;
  const classes = ["message", isMine ? "mine" : "theirs", isFirst ? "first" : "", entry.state ?? "sent"];
  const parts = [who(entry, isFirst, isMine), el("div", { class: "text", dir: "auto" }, ...linked(entry.text))];
  const state = stateLine(entry, actions);
  if (state) parts.push(state);
  const body = el("div", { class: "body" }, ...parts);
  const content = isMine ? [body] : [isFirst ? avatar(entry.sender) : el("span", { class: "no-avatar" }), body];
  return el("li", { class: classes.join(" ").trim(), "data-id": entry.id }, ...before, el("div", { class: "bubble" }, ...content));
}

function line(entry) {
  return el("p", {}, el("span", { dir: "auto", text: entry.text, title: fullTime(entry.time) }));
}

function who(entry, isFirst, isMine) {
  const name = isMine ? "You" : entry.sender;
  const time = el("time", {
    datetime: new Date(entry.time).toISOString(),
    title: fullTime(entry.time),
    text: timeOfDay(entry.time),
  });
  const classes = isFirst ? "who" : "who sr";
  return el("p", { class: classes }, el("span", { class: isMine ? "name sr" : "name", dir: "auto", text: name }), " ", time);
}

const STATES = {
  sending: () => "Sending…",
  waiting: ({ error, waitingFor }) => {
    if (waitingFor === "connection") return "Not sent yet. It goes out when connected.";
    return error ? `Not sent yet, trying again: ${error}` : "Sending…";
  },
};

function stateLine(entry, actions) {
  const describe = STATES[entry.state];
  if (describe) return el("p", { class: "state", text: describe(entry) });
  if (entry.state !== "failed") return null;
  const button = (text, act) => el("button", { type: "button", class: "link", text, on: { click: () => act(entry) } });
  return el(
    "p",
    { class: "state bad" },
    el("span", { text: `Not sent. ${entry.error}` }),
    " ",
    button("Retry", actions.retry),
    " ",
    button("Edit", actions.edit),
    " ",
    button("Discard", actions.discard),
  );
}
