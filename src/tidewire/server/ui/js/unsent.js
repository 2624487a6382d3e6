// Messages that were written and are not acknowledged yet. Each has an id chosen here and keeps it through every
// attempt, reload and restart; the server keeps an id once within five minutes, so a repetition is harmless so long.
// After that only the history can tell, and where it cannot the person is asked.

import { delay } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { Box, passing } from "./storage.js";

const WINDOW = 20;
const PATIENCE = 8_000;
const ATTEMPTS = 4;
const HARMLESS = 270_000;
const ORPHAN = 20_000;
const COME_AGAIN = new Set(["rate_limited", "unavailable", "not_published", "unconfirmed"]);
const SURELY_NOT_KEPT = new Set(["rate_limited", "unavailable", "not_published"]);
const UNKNOWN = "It is not certain whether this was delivered. Sending it again may repeat it.";

/** Is a refusal with this code one that passes without the person's doing? */
export const passesByItself = (code) => COME_AGAIN.has(code);

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The same after a reload, so that a page finds its own unsent messages at once.
const tab = new Box(passing, "tidewire:");
const TAB = tab.get("tab") ?? newId();
tab.set("tab", TAB);

export class Unsent extends Emitter {
  #box;
  #transmit;
  #entries = new Map();
  #paused = new Map();
  #refusals = new Map();

  /** `transmit(entry)` returns false when the thread of the entry cannot be sent to at the moment. */
  constructor(box, transmit) {
    super();
    this.#box = box;
    this.#transmit = transmit;
    this.#adopt((entry) => entry.tab === TAB);
    setInterval(() => this.#adopt((entry) => Date.now() - entry.touched > ORPHAN), ORPHAN);
    box.watch((key, value) => {
      if (value === null && key.startsWith("out/")) this.#remove(key.slice(4));
    });
  }

  /** The unsent messages of one thread, oldest first. */
  of(thread) {
    return [...this.#entries.values()].filter((entry) => entry.thread === thread).sort((a, b) => a.at - b.at);
  }

  threads() {
    return new Set([...this.#entries.values()].map((entry) => entry.thread));
  }

  /** Accept a message; `after` is the position of its room now, from which a history can vouch for it. */
  add(thread, text, after = null) {
    const latest = Math.max(0, ...this.of(thread).map((entry) => entry.at));
    const entry = { id: newId(), thread, text, at: Math.max(Date.now(), latest + 1), after, first: 0, tries: 0, error: "" };
    this.#entries.set(entry.id, { ...entry, state: "waiting", timer: 0 });
    this.#keep(this.#entries.get(entry.id));
    this.flush(thread);
    return entry.id;
  }

  /** Send the waiting messages of a thread, in the order they were written, a window at a time. */
  flush(thread) {
    if (this.#paused.has(thread)) return;
    const entries = this.of(thread);
    let open = WINDOW - entries.filter((entry) => entry.state === "sending").length;
    for (const entry of entries) {
      if (open <= 0) break;
      if (entry.state !== "waiting") continue;
      if (this.#isTooLate(entry)) this.#fail(entry, UNKNOWN);
      else if (this.#send(entry)) open -= 1;
      else break;
    }
    this.emit("change", thread);
  }

  /** The server has it; returns the entry, or null when the id is not ours. */
  acknowledge(id) {
    const entry = this.#entries.get(id);
    if (!entry) return null;
    this.#remove(id);
    this.#refusals.delete(entry.thread);
    this.flush(entry.thread);
    return entry;
  }

  /** The server refused one message. Some refusals pass by themselves, the others are the person's to solve. */
  refuse(id, code, text) {
    const entry = this.#entries.get(id);
    if (!entry) return false;
    if (!passesByItself(code)) {
      this.#fail(entry, text);
      this.flush(entry.thread);
      return true;
    }
    this.#hold(entry);
    if (SURELY_NOT_KEPT.has(code)) entry.first = 0;
    entry.error = text;
    this.#keep(entry);
    this.#pause(entry.thread);
    return true;
  }

  /** The connection is lost: the fate of messages in flight is unknown until the history shows it. */
  disconnected() {
    for (const timer of this.#paused.values()) clearTimeout(timer);
    this.#paused.clear();
    for (const entry of this.#entries.values()) {
      if (entry.state === "sending") this.#hold(entry);
      entry.tries = 0;
    }
    this.emit("change", null);
  }

  /** A history vouches for all from position `since` on: messages that it does not contain were surely not kept. */
  vouch(thread, { epoch, since }) {
    for (const entry of this.of(thread)) {
      if (entry.first && entry.after && entry.after.epoch === epoch && entry.after.offset >= since) {
        entry.first = 0;
        this.#keep(entry);
      }
    }
  }

  /** The server closed because a message was too big: the biggest on its way must have been it. */
  tooBig() {
    const sending = [...this.#entries.values()].filter((entry) => entry.state === "sending");
    const biggest = sending.sort((a, b) => b.text.length - a.text.length)[0];
    if (biggest) this.#fail(biggest, "The server says that this message is too long.");
  }

  retry(id) {
    const entry = this.#entries.get(id);
    if (!entry) return;
    Object.assign(entry, { state: "waiting", error: "", first: 0, tries: 0 });
    this.#keep(entry);
    this.flush(entry.thread);
  }

  discard(id) {
    const entry = this.#entries.get(id);
    this.#remove(id);
    return entry?.text ?? "";
  }

  #send(entry) {
    if (!this.#transmit(entry)) return false;
    entry.state = "sending";
    entry.tries += 1;
    entry.first ||= Date.now();
    entry.timer = setTimeout(() => this.#unanswered(entry), PATIENCE * entry.tries);
    this.#keep(entry);
    return true;
  }

  #unanswered(entry) {
    if (entry.tries >= ATTEMPTS) this.#fail(entry, UNKNOWN);
    else this.#hold(entry);
    this.flush(entry.thread);
  }

  #isTooLate(entry) {
    return entry.first > 0 && Date.now() - entry.first > HARMLESS;
  }

  #hold(entry) {
    clearTimeout(entry.timer);
    entry.state = "waiting";
  }

  #fail(entry, text) {
    clearTimeout(entry.timer);
    entry.state = "failed";
    entry.error = text;
    this.#keep(entry);
    this.emit("change", entry.thread);
  }

  #pause(thread) {
    this.emit("change", thread);
    if (this.#paused.has(thread)) return;
    const refusals = this.#refusals.get(thread) ?? 0;
    this.#refusals.set(thread, refusals + 1);
    const resume = () => {
      this.#paused.delete(thread);
      this.flush(thread);
    };
    this.#paused.set(thread, setTimeout(resume, 500 + delay(refusals)));
  }

  #keep({ id, thread, text, at, after, first, error, state }) {
    const failed = state === "failed";
    this.#box.set(`out/${id}`, { id, thread, text, at, after, first, error, failed, tab: TAB, touched: Date.now() });
  }

  #remove(id) {
    const entry = this.#entries.get(id);
    if (!entry) return;
    clearTimeout(entry.timer);
    this.#entries.delete(id);
    this.#box.remove(`out/${id}`);
    this.emit("change", entry.thread);
  }

  // Messages that an earlier life of this tab, or a closed tab, left unsent. Two tabs that send the same id do no harm.
  #adopt(isOurs) {
    for (const key of this.#box.keys("out/")) {
      const kept = this.#box.get(key);
      if (!kept || this.#entries.has(kept.id) || !isOurs(kept)) continue;
      this.#entries.set(kept.id, { ...kept, state: kept.failed ? "failed" : "waiting", tries: 0, timer: 0 });
      this.emit("adopted", kept.thread);
    }
  }
}
