// The common part of rooms and conversations: a timeline, how far it was read, a draft.

import { Timeline } from "./timeline.js";

let arrivals = 0;

/** Something to show in a thread. `kind` is "message", "event" (someone came or went) or "gap". */
export function item({ kind = "message", key, sender = "", text, time, epoch = "", era = 0, offset, id = null }) {
  arrivals += 1;
  return { kind, key, sender, text, time, epoch, era, offset, seq: arrivals, id };
}

/** The key of a message: a person's own keeps the id it was sent with, so that sending and sent are one thing. */
export function messageKey({ id, sender, offset, epoch }, me) {
  return id && sender === me ? `id:${id}` : `at:${epoch}:${offset}`;
}

export function timeOf(message) {
  return Date.parse(message.timestamp) || Date.now();
}

export class Thread {
  timeline = new Timeline();
  draft = "";
  problem = "";
  #box;
  #me;

  constructor(kind, name, me, box) {
    this.kind = kind;
    this.name = name;
    this.key = `${kind}:${name}`;
    this.#me = me;
    this.#box = box;
    this.read = box.get(`read/${this.key}`);
  }

  isRead(entry) {
    if (entry.kind !== "message" || entry.sender === this.#me) return true;
    if (!this.read) return false;
    return entry.epoch === this.read.epoch ? entry.offset <= this.read.offset : entry.time <= this.read.time;
  }

  /** Messages of others that were not seen yet. They are the newest, so the count begins at the end. */
  get unread() {
    let count = 0;
    for (const entry of this.#newestFirst()) {
      if (this.isRead(entry)) break;
      count += 1;
    }
    return count;
  }

  /** The first message that was not seen yet, or null. */
  get firstUnread() {
    let first = null;
    for (const entry of this.#newestFirst()) {
      if (this.isRead(entry)) break;
      first = entry;
    }
    return first;
  }

  /** Everything here has been seen; returns whether that is news. */
  markRead() {
    if (this.read && this.unread === 0) return false;
    const [last] = this.#newestFirst();
    const { epoch, offset, time } = last ?? { epoch: "", offset: 0, time: Date.now() };
    this.read = { epoch, offset, time };
    this.#box.set(`read/${this.key}`, this.read);
    return true;
  }

  /** Another tab has read further. */
  adoptRead(read) {
    if (read && (!this.read || read.time >= this.read.time)) this.read = read;
  }

  forgetRead() {
    this.#box.remove(`read/${this.key}`);
  }

  *#newestFirst() {
    const { items } = this.timeline;
    for (let index = items.length - 1; index >= 0; index -= 1) {
      const entry = items[index];
      if (entry.kind === "message" && entry.sender !== this.#me) yield entry;
    }
  }
}
