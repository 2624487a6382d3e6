// Private messages. The server keeps what was sent to this person (the inbox); what this person sent is kept here,
// in the browser, because the sender gets an acknowledgement and no copy.

import { Emitter } from "./emitter.js";
import { Thread, item, messageKey, timeOf } from "./thread.js";

/** @typedef {import("./channels").ShownPrivateMessage} Said */

const KEPT = 200;
const SAVE_AFTER = 250;
const SENT = /^Private message sent to (.+)\.$/;
const NOT_FOUND = /^User '(.+)' not found among active connections\.$/;
const PERSON = /^[A-Za-z0-9_.-]{1,32}$/;

/** Why nobody can have this name, or "". */
export function personProblem(name) {
  if (!name) return "Which name do you want to write to?";
  return PERSON.test(name) ? "" : "A name has 1 to 32 letters, digits, - _ or .";
}

export class Conversations extends Emitter {
  #me;
  #box;
  #unsent;
  #threads = new Map();
  #inbox;
  // All of the inbox has come: new messages come next.
  #isLive = false;
  // The device had no inbox when the page came to it.
  #isNewHere = false;
  #unsaved = new Set();
  #timer = 0;

  constructor({ me, box, unsent }) {
    super();
    this.#me = me;
    this.#box = box;
    this.#unsent = unsent;
    this.#inbox = box.get("inbox") ?? { offset: null, epochs: [] };
    for (const peer of box.get("people", [])) this.#load(this.open(peer));
    box.watch((key, value) => this.#changedElsewhere(key, value));
    addEventListener("pagehide", () => this.#save());
  }

  get all() {
    return [...this.#threads.values()];
  }

  get(peer) {
    return this.#threads.get(peer);
  }

  /** The part of the connection's address that is about the inbox. */
  get position() {
    this.#isLive = false;
    const { offset, epochs } = this.#inbox;
    return offset === null ? { inbox: "" } : { inbox: String(offset), inbox_epoch: epochs.at(-1) };
  }

  /** The conversation with a person, begun if there is none. */
  open(peer) {
    let thread = this.#threads.get(peer);
    if (!thread) {
      thread = new Thread("person", peer, this.#me, this.#box);
      if (!thread.read) thread.read = { epoch: "", offset: 0, time: 0 };
      this.#threads.set(peer, thread);
      this.#saveLater(thread);
      this.emit("change");
    }
    return thread;
  }

  close(peer) {
    const thread = this.#threads.get(peer);
    if (!thread) return;
    this.#threads.delete(peer);
    this.#unsaved.delete(thread);
    thread.forgetRead();
    this.#box.remove(`with/${peer}`);
    this.#box.set("people", [...this.#threads.keys()]);
    this.emit("change");
  }

  /**
   * The messages that came while this page was away.
   * @param {import("./channels").ShownInbox} message
   */
  inbox(message) {
    if (!this.#inbox.epochs.includes(message.epoch)) this.#inbox.epochs = [...this.#inbox.epochs.slice(-9), message.epoch];
    const before = new Set(this.all);
    this.#isNewHere ||= this.#inbox.offset === null;
    let count = 0;
    for (const one of message.messages) if (this.#show(one)) count += 1;
    this.#inbox.offset = message.offset ?? message.messages.at(-1)?.offset ?? this.#inbox.offset ?? 0;
    this.#isLive = !message.more;
    // On a new device, messages before a person's own last answer were seen on another one.
    if (this.#isNewHere && this.#isLive) for (const thread of this.all) if (thread.timeline.items.at(-1)?.sender === this.#me) thread.markRead();
    if (this.#isLive) this.#isNewHere = false;
    if (message.recovered === false) for (const thread of before) this.#gap(thread, message);
    this.#saveLater();
    this.emit("inbox", message.recovered === true ? count : 0);
    this.emit("change");
  }

  /** @param {Said} message */
  message(message) {
    const shown = this.#show(message);
    if (this.#isLive && Number.isInteger(message.offset)) this.#inbox.offset = Math.max(this.#inbox.offset ?? 0, message.offset);
    this.#saveLater();
    this.emit("change");
    if (shown) this.emit("arrived", this.open(this.#peerOf(message)), shown);
  }

  /**
   * The two answers to a private message; returns whether this was one.
   * @param {import("./channels").System} message
   */
  system({ content, id }) {
    const [, sentTo] = SENT.exec(content) ?? [];
    const [, missing] = NOT_FOUND.exec(content) ?? [];
    const peer = sentTo ?? missing;
    if (peer === undefined) return false;
    const found = id ?? this.#unsent.of(`person:${peer}`).find((entry) => entry.state === "sending")?.id;
    if (missing) {
      this.#unsent.refuse(found, "absent", `${missing} is not online and has no account here, so this was not delivered.`);
      return true;
    }
    const entry = this.#unsent.acknowledge(found);
    if (entry) this.#sent(peer, entry);
    return true;
  }

  /** @param {Said} message */
  #peerOf({ sender, target }) {
    return sender === this.#me ? target : sender;
  }

  get #era() {
    return Math.max(0, this.#inbox.epochs.length - 1);
  }

  get #epoch() {
    return this.#inbox.epochs.at(-1) ?? "";
  }

  /** @param {Said} message */
  #show(message) {
    if (typeof message.sender !== "string" || typeof message.target !== "string") return null;
    if (typeof message.content !== "string") return null;
    const thread = this.open(this.#peerOf(message));
    const { sender, content: text, offset, id = null } = message;
    const epoch = this.#epoch;
    const key = messageKey({ id, sender, offset, epoch }, this.#me);
    const shown = item({ key, sender, text, time: timeOf(message), epoch, era: this.#era, offset, id });
    if (id && sender === this.#me) this.#unsent.acknowledge(id);
    if (!thread.timeline.add(shown)) return null;
    this.#saveLater(thread);
    return shown;
  }

  #sent(peer, { id, text }) {
    const thread = this.open(peer);
    const place = { epoch: this.#epoch, era: this.#era, offset: this.#inbox.offset ?? 0 };
    thread.timeline.add(item({ key: `id:${id}`, sender: this.#me, text, time: Date.now(), ...place, id }));
    this.#saveLater(thread);
    this.emit("change");
  }

  /**
   * @param {Thread} thread
   * @param {import("./channels").ShownInbox} message
   */
  #gap(thread, message) {
    const first = message.messages[0];
    const place = { epoch: message.epoch, era: this.#era, offset: (first?.offset ?? message.offset ?? 0) - 0.5 };
    const text = "Some older messages may be missing here.";
    const key = `gap:${message.epoch}:${place.offset}`;
    thread.timeline.add(item({ kind: "gap", key, text, time: first ? timeOf(first) : Date.now(), ...place }));
    this.#saveLater(thread);
  }

  #load(thread) {
    for (const kept of this.#box.get(`with/${thread.name}`, [])) thread.timeline.add(item(kept));
  }

  #saveLater(thread) {
    if (thread) this.#unsaved.add(thread);
    this.#timer ||= setTimeout(() => this.#save(), SAVE_AFTER);
  }

  // Messages before the position: a page that dies in between is sent them again, and knows them by their keys.
  #save() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    for (const thread of this.#unsaved) this.#box.set(`with/${thread.name}`, thread.timeline.items.slice(-KEPT));
    this.#unsaved.clear();
    this.#box.set("people", [...this.#threads.keys()]);
    this.#box.set("inbox", this.#inbox);
  }

  #changedElsewhere(key, value) {
    if (value === null) return;
    if (key.startsWith("read/person:")) this.#threads.get(key.slice("read/person:".length))?.adoptRead(value);
    if (key.startsWith("with/")) {
      const { timeline } = this.open(key.slice("with/".length));
      for (const kept of value) timeline.add(item(kept));
    }
    this.emit("change");
  }
}
