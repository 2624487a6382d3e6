// One of the two clients: a connection by tidewire.js as a user, its account, and the fault that lasts.

import { Account } from "./account.js";
import { base } from "../admin/api.js";
// No await here: the page must answer as soon as it has loaded.
import { Client } from "../../../tidewire.js";

/** Events go to `changed()`, `told(text, kind)` and `saw(offset)`. */
export class Player {
  account = new Account();
  /** The fault that is applied to it: { kind, until } or null. */
  fault = null;
  state = "disconnected";
  problem = "";
  id = null;
  #client = null;
  #epoch = "";
  #timer = 0;
  #listeners;

  constructor(listeners) {
    this.#listeners = listeners;
  }

  /** Connect as a user, and subscribe to a channel; the connection before ends. */
  connect(user, channel) {
    const before = this.#client;
    this.#client = null; // what becomes of that one is no news
    before?.disconnect();
    this.#over();
    this.user = user;
    this.problem = "";
    this.account.clear();
    this.#epoch = "";
    const client = new Client(`${base}/connection?user=${encodeURIComponent(user)}`, { name: "playground" });
    this.#client = client;
    const mine = (work) => (value) => client === this.#client && work(value);
    client.on("connecting", mine(({ code, reason }) => this.#connecting(code, reason)));
    client.on("connected", mine(({ client: id }) => this.#become("connected", id)));
    client.on("disconnected", mine(({ code, reason }) => this.#refused(reason || String(code))));
    const subscription = client.subscribe(channel, mine((publication) => this.#got(publication)), { recoverable: true });
    subscription.on("subscribed", mine((answer) => this.#subscribed(answer)));
    // the client repeats it by itself after a temporary error
    subscription.on("unsubscribed", mine(({ code, reason }) => this.#refused(`${reason} (${code})`)));
    this.#become("connecting", null);
    client.connect();
  }

  /** Whether a message that is published now cannot reach it at once. */
  get isAway() {
    return this.fault !== null || this.state !== "subscribed";
  }

  /** Somebody else knows of a message. */
  published(offset) {
    this.account.published(offset, this.isAway);
    this.#listeners.changed();
  }

  /** A fault begins; a cable that was cut, or a killed worker, lasts until the client is back. */
  suffer(kind, seconds) {
    this.account.reset();
    this.fault = { kind, until: performance.now() + seconds * 1_000 };
    clearTimeout(this.#timer);
    if (kind === "frozen") this.#timer = setTimeout(() => this.#thaw(), seconds * 1_000);
    this.#listeners.changed();
  }

  /** A fault that was asked for did not happen. */
  spare() {
    this.#over();
    this.#listeners.changed();
  }

  #over() {
    clearTimeout(this.#timer);
    this.fault = null;
  }

  #thaw() {
    if (this.fault?.kind === "frozen") this.#over();
    this.#settle();
  }

  #become(state, id) {
    this.state = state;
    this.id = id;
    this.#listeners.changed();
  }

  #connecting(code, reason) {
    if (this.state === "subscribed") {
      this.account.lost();
      this.#listeners.told(`${this.user} has lost its connection (${code === 1006 ? "1006, no close frame" : `${code} ${reason}`}) and comes back by itself.`);
    }
    this.#become("connecting", null);
  }

  #refused(why) {
    this.problem = why;
    this.#become("refused", null);
    this.#listeners.told(`${this.user} is refused: ${why}`, "bad");
  }

  #subscribed({ wasRecovering, recovered, position }) {
    const epoch = position?.epoch ?? "";
    if (this.#epoch && epoch !== this.#epoch && !wasRecovering) this.account.clear();
    this.#epoch = epoch;
    this.problem = "";
    this.#over();
    this.#become("subscribed", this.#client.id);
    const hadMissed = this.account.missed > 0;
    if (hadMissed && !(wasRecovering && recovered)) this.account.told = true;
    // the messages that were missed come after this event in the same turn, or in pages
    queueMicrotask(() => this.#settle());
  }

  #got({ offset }) {
    if (!offset) return;
    this.account.got(offset);
    this.#listeners.saw(offset);
    this.#settle();
    this.#listeners.changed();
  }

  /** Tell the outcome once everything is back, or cannot come any more. */
  #settle() {
    const { missed, outstanding, told, sentence, doubled } = this.account;
    if (this.isAway || !missed || sentence === this.#settled || (outstanding && !told)) return;
    this.#settled = sentence;
    this.#listeners.told(`${this.user}: ${sentence}.`, outstanding || doubled ? "bad" : "good");
    this.#listeners.changed();
  }

  #settled = "";
}
