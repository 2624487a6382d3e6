// The rooms that this person is in: their messages, positions and people, and the messages of the dialect about them.

import { Emitter } from "./emitter.js";
import { passesByItself } from "./unsent.js";
import { Thread, item, messageKey, timeOf } from "./thread.js";

/** @typedef {import("./channels").ShownMessage} Said */

export const LOBBY = "lobby";
const NAME = /^[\p{L}\p{N}_.-](?:[\p{L}\p{N}_. -]{0,62}[\p{L}\p{N}_.-])?$/u;
const CAME = /^User '(.+)' has joined the chat\.$/;
const WENT = /^User '(.+)' (has left the chat|disconnected due to an error)\.$/;
const AGAIN = 3_000;
const PAGE = 100;
const LONGEST_FOREIGN = 2_000;
const RECOUNT_SOON = 1_000;
const RECOUNT_SPREAD = 4_000;

/** Why a room cannot have this name, or "". */
export function nameProblem(name) {
  if (!name) return "Give the room a name.";
  if (name.length > 64) return "A room name has at most 64 characters.";
  if (!NAME.test(name)) return "A room name has letters, digits, - _ . and spaces inside.";
  return "";
}

export class Room extends Thread {
  position = null;
  people = [];
  ready = false;
  recount = 0;
  again = 0;
  hasEarlier = false;
  asksEarlier = false;

  constructor(name, me, box) {
    super("room", name, me, box);
  }
}

export class Rooms extends Emitter {
  directory = null;
  #me;
  #box;
  #unsent;
  /** @type {(message: import("./channels").Channels["chat"]["accepted"]) => boolean} */
  #send;
  #rooms = new Map();

  constructor({ me, box, unsent, send }) {
    super();
    this.#me = me;
    this.#box = box;
    this.#unsent = unsent;
    this.#send = send;
    for (const name of this.#savedNames()) this.#create(name);
    box.watch((key, value) => this.#changedElsewhere(key, value));
  }

  get all() {
    return [...this.#rooms.values()];
  }

  get(name) {
    return this.#rooms.get(name);
  }

  /** The room that the server joins by itself: asked for in the address of the connection. */
  get first() {
    return this.all[0];
  }

  /** Join a room, new or known; a name that does not exist is created by the server. */
  join(name) {
    const known = this.#rooms.get(name);
    if (known) return known;
    const room = this.#create(name);
    this.#saveNames();
    this.#ask(room);
    this.emit("change");
    return room;
  }

  leave(name) {
    const room = this.#rooms.get(name);
    if (!room || this.#rooms.size === 1) return;
    this.#unfollow(name);
    room.forgetRead();
    this.#saveNames();
    this.emit("change");
  }

  /** Ask for the names of all rooms; the answer comes as a "directory" event. */
  askDirectory() {
    return this.#send({ type: "rooms" });
  }

  /** Join all rooms but the first, which the connection itself has joined. */
  rejoin() {
    for (const room of this.all.slice(1)) this.#ask(room);
  }

  disconnected() {
    for (const room of this.all) {
      room.ready = false;
      room.asksEarlier = false;
      clearTimeout(room.recount);
      clearTimeout(room.again);
      room.recount = 0;
    }
  }

  /** @param {import("./channels").ShownHistory} message */
  history(message) {
    const room = this.#of(message);
    if (!room) return;
    const since = message.recovered === true ? room.position?.offset ?? 0 : this.#oldest(message) - 1;
    const fresh = message.messages.filter((one) => message.recovered !== true || offsetOf(one) > since);
    if (message.recovered !== true) room.hasEarlier = message.messages.length >= PAGE;
    if (message.recovered !== true) this.#replace(room, message);
    for (const one of fresh) this.#show(room, one, message.epoch);
    const offset = Math.max(offsetOf(message.messages.at(-1)) ?? 0, message.recovered ? since : 0);
    room.position = { epoch: message.epoch, offset };
    room.ready = true;
    room.problem = "";
    if (!room.read) room.markRead();
    this.#unsent.vouch(room.key, { epoch: message.epoch, since });
    this.#unsent.flush(room.key);
    this.emit("history", room, message.recovered === true ? fresh.length : 0);
    this.emit("change");
  }

  /** Ask for the messages before the oldest one that is here; the answer comes as a change. */
  askEarlier(room) {
    const [oldest] = room.timeline.items.filter(({ kind, offset }) => kind !== "gap" && Number.isInteger(offset));
    if (!room.hasEarlier || room.asksEarlier || !room.ready || !oldest) return;
    const place = room.name === LOBBY ? {} : { room: room.name };
    room.asksEarlier = this.#send({ type: "earlier", before: oldest.offset, epoch: oldest.epoch, ...place });
    this.emit("change");
  }

  /** @param {import("./channels").ShownEarlier} message */
  earlier(message) {
    const room = this.#of(message);
    if (!room) return;
    room.asksEarlier = false;
    room.hasEarlier = message.more === true;
    if (message.epoch === room.position?.epoch) {
      for (const one of message.messages) this.#show(room, one, message.epoch);
    }
    this.emit("earlier", room);
    this.emit("change");
  }

  /** @param {import("./channels").ShownMessage | import("./channels").ShownForeign} message */
  message(message) {
    const room = this.#of(message);
    if (!room?.position || !(message.offset > room.position.offset)) return;
    room.position.offset = message.offset;
    const shown = this.#show(room, message, room.position.epoch);
    this.emit("change");
    if (shown) this.emit("arrived", room, shown);
  }

  /**
   * Someone came or went; returns whether it was that.
   * @param {import("./channels").System} message
   */
  system(message) {
    const [, came] = CAME.exec(message.content) ?? [];
    const [, went, how] = WENT.exec(message.content) ?? [];
    const room = this.#of(message);
    if (!room || !(came || went)) return false;
    const name = came ?? went;
    const others = room.people.filter((person) => person !== name);
    room.people = came ? [...others, name].sort(byName) : others;
    const verb = came ? "joined" : how.startsWith("has left") ? "left" : "lost the connection";
    if (name !== this.#me) this.#event(room, message, `${name} ${verb}`);
    this.#recountLater(room);
    this.emit("change");
    return true;
  }

  /** @param {import("./channels").OnlineUsers} message */
  online(message) {
    const room = this.#of(message);
    if (!room) return;
    room.people = [...new Set(message.users)].sort(byName);
    this.emit("change");
  }

  /** @param {import("./channels").RoomList} message */
  listed(message) {
    this.directory = [...message.rooms].sort((a, b) => b.online - a.online || byName(a.name, b.name));
    this.emit("directory");
  }

  /** A room could not be joined. Try again if the reason passes by itself; returns whether it does. */
  refused(name, code, text) {
    const room = this.#rooms.get(name);
    if (!room || room.ready) return false;
    room.problem = text;
    room.asksEarlier = false;
    if (passesByItself(code)) room.again = setTimeout(() => this.#ask(room), AGAIN + Math.random() * AGAIN);
    this.emit("change");
    return true;
  }

  isOnline(name) {
    return this.all.some((room) => room.people.includes(name));
  }

  #of(message) {
    return this.#rooms.get(message.room ?? LOBBY);
  }

  #create(name) {
    const room = new Room(name, this.#me, this.#box);
    this.#rooms.set(name, room);
    return room;
  }

  #ask(room) {
    const { position } = room;
    const recovery = position ? { since: position.offset, epoch: position.epoch } : {};
    this.#send({ type: "join", room: room.name, ...recovery });
  }

  #unfollow(name) {
    const room = this.#rooms.get(name);
    clearTimeout(room?.recount);
    clearTimeout(room?.again);
    this.#rooms.delete(name);
    this.#send({ type: "leave", room: name });
  }

  /** @param {import("./channels").ShownHistory} message */
  #oldest(message) {
    return offsetOf(message.messages[0]) ?? 1;
  }

  /**
   * @param {Room} room
   * @param {import("./channels").ShownHistory} message
   */
  #replace(room, message) {
    room.timeline.replace([]);
    if (message.recovered !== false) return;
    const time = message.messages[0] ? timeOf(message.messages[0]) : Date.now();
    const text = "Some older messages may be missing here.";
    room.timeline.add(item({ kind: "gap", key: "gap", text, time, epoch: message.epoch, offset: 0 }));
  }

  /**
   * @param {Room} room
   * @param {Said | import("./channels").ShownForeign | import("./channels").System} message
   * @param {string} epoch
   */
  #show(room, message, epoch) {
    if (!isSaid(message)) return this.#showForeign(room, message, epoch);
    const { sender, content: text, offset, id = null } = message;
    const key = messageKey({ id, sender, offset, epoch }, this.#me);
    const shown = item({ key, sender, text, time: timeOf(message), epoch, offset, id });
    const isNew = room.timeline.add(shown);
    if (id && sender === this.#me) this.#unsent.acknowledge(id);
    return isNew ? shown : null;
  }

  /**
   * Show a publication of an application in the room, which no person has written.
   * @param {Room} room
   * @param {any} message
   * @param {string} epoch
   */
  #showForeign(room, message, epoch) {
    const { data, offset } = message;
    if (!Number.isInteger(offset)) return null;
    const content = typeof data === "string" ? data : typeof data?.content === "string" ? data.content : JSON.stringify(data);
    const text = String(content ?? "").slice(0, LONGEST_FOREIGN) || "(nothing)";
    room.timeline.add(item({ kind: "event", key: `at:${epoch}:${offset}`, text, time: timeOf(message), epoch, offset }));
    return null;
  }

  #event(room, message, text) {
    if (!room.position) return;
    const { epoch, offset } = room.position;
    const shown = item({ kind: "event", key: "", text, time: timeOf(message), epoch, offset });
    shown.key = `event:${shown.seq}`;
    room.timeline.add(shown);
  }

  // Joins and leaves can be missed (a drained server publishes none), so the list is asked for again; spread and
  // not for every event, because in a big room everybody does.
  #recountLater(room) {
    if (room.recount) return;
    const wait = RECOUNT_SOON + Math.random() * RECOUNT_SPREAD + room.people.length * 20;
    room.recount = setTimeout(() => {
      room.recount = 0;
      this.#send(room.name === LOBBY ? { type: "online" } : { type: "online", room: room.name });
    }, wait);
  }

  #savedNames() {
    const saved = this.#box.get("rooms", [LOBBY]);
    const names = Array.isArray(saved) ? saved.filter((name) => !nameProblem(name)) : [];
    return names.length ? names : [LOBBY];
  }

  #saveNames() {
    this.#box.set("rooms", [...this.#rooms.keys()]);
  }

  #changedElsewhere(key, value) {
    if (key.startsWith("read/room:")) {
      this.#rooms.get(key.slice("read/room:".length))?.adoptRead(value);
    } else if (key === "rooms" && Array.isArray(value)) {
      for (const name of value) if (!nameProblem(name) && !this.#rooms.has(name)) this.#ask(this.#create(name));
      for (const name of [...this.#rooms.keys()]) if (!value.includes(name)) this.#unfollow(name);
    }
    this.emit("change");
  }
}

/**
 * Anybody may publish in a room: no publication may stop the page.
 * @param {Said | import("./channels").ShownForeign | import("./channels").System} message
 * @returns {message is Said}
 */
function isSaid(message) {
  return message.type === "chat_message" && typeof message.sender === "string" && typeof message.content === "string";
}

/**
 * The place of a message; a notice of the server has none.
 * @param {import("./channels").ShownHistory["messages"][0]} [message]
 */
function offsetOf(message) {
  return message && "offset" in message ? message.offset : undefined;
}

function byName(a, b) {
  return a.localeCompare(b, undefined, { sensitivity: "base" }) || (a < b ? -1 : 1);
}
