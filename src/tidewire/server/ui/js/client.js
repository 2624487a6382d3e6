// One signed-in person: the connection, and the receiver of each message of the dialect. No DOM.
//
// The types of messages are those of the models: `make page-types` writes channels.ts, and a test checks this page by it.

import { Connection } from "./connection.js";
import { Conversations } from "./conversations.js";
import { Emitter } from "./emitter.js";
import { Unsent } from "./unsent.js";
import { LOBBY, Rooms } from "./rooms.js";

/** @typedef {import("./channels").Channels["chat"]["published"]} Shown */

const LONGEST = 60_000;
const COMMAND = /^\/pm(?:\s+(\S+)(?:\s+([\s\S]+))?)?\s*$/;
// It may have been meant for one person only. A path such as /usr/bin is no command.
const OTHER_COMMAND = /^\/[A-Za-z]\w*(\s|$)/;
const MALFORMED = "Invalid /pm command format. Use '/pm username message'";

export class Client extends Emitter {
  #recovered = 0;
  #returning = false;

  constructor({ session, box }) {
    super();
    const { username: me, token } = session;
    this.me = me;
    const send = (message) => this.connection.send(message);
    this.connection = new Connection({ address: () => this.#address(), hello: () => ({ type: "auth", token }) });
    this.unsent = new Unsent(box, (entry) => this.#transmit(entry));
    this.rooms = new Rooms({ me, box, unsent: this.unsent, send });
    this.conversations = new Conversations({ me, box, unsent: this.unsent });
    for (const thread of this.unsent.threads()) this.thread(thread);
    this.unsent.on("adopted", (thread) => {
      this.thread(thread);
      this.unsent.flush(thread);
    });
    this.connection.on("message", (message) => this.#received(message));
    this.connection.on("lost", (code) => this.#lost(code));
    this.rooms.on("history", (room, count) => this.#caughtUp(count));
    this.conversations.on("inbox", (count) => this.#caughtUp(count));
    for (const part of [this.rooms, this.conversations, this.unsent]) part.on("change", () => this.emit("change"));
    for (const part of [this.rooms, this.conversations]) {
      part.on("arrived", (thread, shown) => this.emit("arrived", thread, shown));
    }
  }

  /** The thread of a key such as "room:lobby"; joins the room or begins the conversation if need be. */
  thread(key) {
    const kind = key.slice(0, key.indexOf(":"));
    const name = key.slice(kind.length + 1);
    return kind === "room" ? this.rooms.join(name) : this.conversations.open(name);
  }

  get threads() {
    return [...this.rooms.all, ...this.conversations.all];
  }

  /** Accept a message that was written in a thread. Returns the thread it went to, or a text that says why it did not. */
  write(thread, text) {
    let target = thread;
    let words = text.trim();
    if (/^\/pm(\s|$)/.test(words)) {
      const [, person, rest] = COMMAND.exec(words) ?? [];
      if (!person || !rest?.trim()) return MALFORMED;
      if (person === this.me) return "That is you. Write to somebody else.";
      target = this.conversations.open(person);
      words = rest.trim();
    } else if (OTHER_COMMAND.test(words)) {
      return `There is no command ${words.split(/\s/)[0]}, so nothing was sent. Write /pm name message, or begin with // to send a text with a slash.`;
    } else if (words.startsWith("//")) {
      words = words.slice(1);
    }
    const size = new TextEncoder().encode(JSON.stringify(words)).length;
    if (size > LONGEST) return `This message is too long: ${size} bytes, and ${LONGEST} can be sent.`;
    this.unsent.add(target.key, words, target.position ?? null);
    return target;
  }

  #address() {
    const { first } = this.rooms;
    const query = new URLSearchParams({ room: first.name });
    if (first.position) {
      query.set("since", first.position.offset);
      query.set("epoch", first.position.epoch);
    }
    for (const [key, value] of Object.entries(this.conversations.position)) query.set(key, value);
    const address = new URL(`/ws/auth?${query}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    return address.href;
  }

  #transmit({ id, thread, text }) {
    if (this.connection.state.name !== "connected") return false;
    const name = thread.slice(thread.indexOf(":") + 1);
    if (thread.startsWith("person:")) {
      return this.connection.send({ type: "private_chat", target_user: name, message: text, id, keep: true });
    }
    if (!this.rooms.get(name)?.ready) return false;
    const room = name === LOBBY ? {} : { room: name };
    return this.connection.send({ type: "chat", message: text, id, ...room });
  }

  /** @param {Shown} message */
  #received(message) {
    const { rooms, conversations } = this;
    switch (message?.type) {
      case "history": return this.#history(message);
      case "chat_message": return rooms.message(message);
      case "publication": return rooms.message(message);
      case "earlier": return rooms.earlier(message);
      case "private_chat_message": return conversations.message(message);
      case "inbox": return conversations.inbox(message);
      case "online": return rooms.online(message);
      case "rooms": return rooms.listed(message);
      case "system": return rooms.system(message) || conversations.system(message) || this.emit("notice", message.content);
      case "error": return this.#refused(message);
    }
  }

  /** @param {import("./channels").ShownHistory} message */
  #history(message) {
    const isFirst = this.connection.state.name === "connecting";
    if (isFirst) this.connection.ready();
    this.rooms.history(message);
    if (!isFirst) return;
    this.rooms.rejoin();
    for (const thread of this.conversations.all) this.unsent.flush(thread.key);
  }

  /** @param {import("./channels").Error} message */
  #refused({ id, room = LOBBY, code, content }) {
    if (id && this.unsent.refuse(id, code, content)) return;
    if (!this.rooms.get(room)) return; // it was left meanwhile
    if (!this.rooms.refused(room, code, content)) this.emit("notice", content);
  }

  #lost(code) {
    if (code === 1009) this.unsent.tooBig();
    this.#returning = true;
    this.#recovered = 0;
    this.rooms.disconnected();
    this.unsent.disconnected();
  }

  // Several histories arrive after a return; one line for all of them.
  #caughtUp(count) {
    if (!this.#returning) return;
    this.#recovered += count;
    this.emit("recovered", this.#recovered);
  }
}
