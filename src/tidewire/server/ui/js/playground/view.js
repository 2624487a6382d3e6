// How one client looks: its state, its counts, its messages as squares, and its buttons.

import { el } from "../dom.js";

const SHOWN = 120;
const STATES = { connecting: "coming back …", connected: "joining …", disconnected: "not connected", refused: "refused", subscribed: "connected" };
const FAULTS = { cut: "cable cut", frozen: "frozen", killed: "worker killed" };

const hue = (name) => [...name].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % 12;

/** Draws a player into a section; `acts` are the functions of its buttons. */
export class View {
  #section;
  #player;
  #parts;

  constructor(section, index, player, acts) {
    this.#section = section;
    this.#player = player;
    const button = (text, name, act) => el("button", { type: "button", class: "quiet edged", text, "data-act": name, on: { click: act } });
    const count = (name) => el("div", { "data-count": name.toLowerCase() }, el("dt", { text: name }), el("dd", { text: "0" }));
    const key = (name, text) => el("span", {}, el("i", { class: name, "aria-hidden": "true" }), text);
    this.#parts = {
      avatar: el("span", { class: "avatar", "aria-hidden": "true" }),
      name: el("h2", { id: `name-${index}` }),
      pill: el("span", { class: "pill", "aria-live": "polite" }),
      where: el("span", { class: "where" }),
      counts: ["Missed", "Recovered", "Doubled"].map(count),
      outcome: el("p", { class: "outcome", "aria-live": "polite" }),
      strip: el("ol", { class: "strip", "aria-label": "What came" }),
    };
    const { avatar, name, pill, where, counts, outcome, strip } = this.#parts;
    section.append(
      el("div", { class: "client-head" }, avatar, name, pill, where),
      el("dl", { class: "counts" }, ...counts),
      outcome,
      strip,
      el("p", { class: "legend" }, key("", "came at once"), key("missed", "missed"), key("recovered", "came back")),
      el("div", { class: "row" }, button("Cut the cable", "cut", acts.cut), button("Freeze", "freeze", acts.freeze), button("Kill its worker", "kill", acts.kill)),
    );
  }

  draw(row, process) {
    const { account, fault, state, user = "", problem } = this.#player;
    const { avatar, name, pill, where, counts, outcome, strip } = this.#parts;
    avatar.dataset.hue = hue(user);
    avatar.textContent = user.slice(0, 2);
    name.textContent = user;
    this.#section.toggleAttribute("data-fault", fault !== null || state === "refused");
    const left = fault && fault.kind !== "killed" ? Math.max(0, Math.ceil((fault.until - performance.now()) / 1_000)) : 0;
    put(pill, fault ? `${FAULTS[fault.kind]}${left ? ` · ${left} s` : ""}` : STATES[state]);
    pill.className = `pill ${fault || state === "refused" ? "bad" : state === "subscribed" ? "good" : ""}`;
    const unsent = row?.unsent ? ` · ${Math.ceil(row.unsent / 1_024)} KiB unsent` : "";
    put(where, row ? `${process ? `worker ${process}` : row.node}${row.state === "slow" ? " · slow" : ""}${unsent}` : "");
    const whole = account.missed > 0 && account.outstanding === 0;
    for (const [index, value, mood] of [
      [0, account.missed, ""],
      [1, account.recovered, whole ? "good" : account.told ? "bad" : ""],
      [2, account.doubled, account.doubled ? "bad" : ""],
    ]) {
      counts[index].className = mood;
      put(counts[index].lastChild, String(value));
    }
    const [text, mood] = words(account, fault, problem);
    put(outcome, text);
    outcome.className = `outcome ${mood}`;
    squares(strip, [...account.states].slice(-SHOWN));
  }
}

/** Change a text only where it is another one: some are read out. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function words(account, fault, problem) {
  if (problem) return [problem, "bad"];
  if (account.doubled) return [`${account.doubled} came twice.`, "bad"];
  if (account.isDisordered) return ["One came behind a later one.", "bad"];
  if (fault?.kind === "cut") return ["Neither side has noticed yet.", ""];
  if (!account.missed) return ["", ""];
  if (account.outstanding === 0) return ["All came back, in order, once each.", "good"];
  if (account.told) return [`Told of a gap: ${account.outstanding} did not come back, because the history no longer reaches them.`, "bad"];
  return [`${account.outstanding} are still missing.`, ""];
}

function squares(strip, states) {
  while (strip.children.length > states.length) strip.lastChild.remove();
  while (strip.children.length < states.length) strip.append(el("li"));
  states.forEach(([offset, state], index) => {
    const node = strip.children[index];
    const name = state === "live" ? "" : state;
    if (node.className !== name) node.className = name;
    const title = `${offset}: ${state === "live" ? "came at once" : state}`;
    if (node.title !== title) node.title = title;
  });
}
