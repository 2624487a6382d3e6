// A client of the Centrifuge protocol for pages without a bundler: one file, no dependency.
//
//   import { connect } from "/connection/tidewire.js";
//   const client = connect("/connection/websocket", { getToken });
//   client.subscribe("room:1", ({ data }) => console.log(data));
//
// It reconnects by itself with full jitter, recovers missed publications, and reports when that is not possible.

/**
 * @typedef {{ offset: number, epoch: string }} Position
 * @typedef {{ client: string, user: string, connInfo?: any, chanInfo?: any }} Member
 * @typedef {{ channel: string, data: any, offset?: number, info?: Member, tags?: Object<string, string> }} Publication
 * @typedef {{ channel: string, wasRecovering: boolean, recovered: boolean, position?: Position, data?: any }} Subscribed
 *
 * @typedef {object} Options
 * @property {string} [token] says who connects
 * @property {() => string | Promise<string>} [getToken] fetches a token: at first, and before one ends; "" ends it all
 * @property {any} [data] goes to the server with each connect
 * @property {string} [name] of the application, for the server's statistics
 * @property {number} [timeout] milliseconds for an answer
 * @property {typeof globalThis.WebSocket} [WebSocket] where there is none, as in Node 20
 *
 * @typedef {object} ChannelOptions
 * @property {string} [token] lets a client into a private channel
 * @property {(channel: string) => string | Promise<string>} [getToken] fetches such a token
 * @property {any} [data] goes to the server with each subscribe
 * @property {Position} [since] what came after this position comes first
 * @property {(channel: string, signal: AbortSignal) => Position | Promise<Position>} [getState] loads what the application
 *   shows, and returns the position from which to go on: at first, and whenever what was missed cannot be recovered;
 *   `signal` is aborted when that is not wanted any more, because the connection was lost meanwhile
 * @property {boolean} [recoverable] what is missed while away is asked for (true); the server may say so by itself
 * @property {boolean} [joinLeave] joins and leaves of others are asked for
 *
 * @typedef {ChannelOptions & { getSignature?: (keys: string[]) => Promise<{ keys: string[], signature: string }> }}
 *   PollOptions `getSignature` signs keys, and leaves out those that this user may not track
 */

const FIRST_DELAY = 500;
const LONGEST_DELAY = 20_000;
const SEEN_DELAY = 2_500;
const SEEN_ATTEMPTS = 200;
const STABLE = 5_000;
const PING_GRACE = 10_000;
const CLOSE_GRACE = 1_000;
const LONGEST_TIMER = 2 ** 31 - 1;
const AGAIN = 1_000;
const TOKEN_EXPIRED = 109;
const UNRECOVERABLE = 112;

/**
 * Milliseconds before attempt number `attempt` (0: the first after a loss): any time up to a bound that doubles. While
 * the page is `seen`, a server that is there again is noticed within SEEN_DELAY, in the first minutes.
 */
export function delay(attempt, random = Math.random, seen = false) {
  const longest = seen && attempt < SEEN_ATTEMPTS ? SEEN_DELAY : LONGEST_DELAY;
  return random() * Math.min(longest, FIRST_DELAY * 2 ** attempt);
}

function isSeen() {
  return globalThis.document?.visibilityState === "visible";
}

/** Whether a code of the server ends a client for good. */
export function isFinal(code) {
  return code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/** A refusal of the server: `code` is a number of the protocol (below 100: never answered). */
export class TidewireError extends Error {
  constructor(code, message, temporary = false) {
    super(message);
    this.name = "TidewireError";
    this.code = code;
    this.temporary = temporary || code < 100;
  }
}

const closed = (reason = "the connection was lost before the answer came") => new TidewireError(11, reason);

class Emitter {
  #listeners = new Map();

  /** Listen; returns a function that stops it. */
  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
    return () => this.#listeners.get(event).delete(listener);
  }

  _emit(event, value) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        if (globalThis.reportError) globalThis.reportError(error);
        else queueMicrotask(() => { throw error; });
      }
    }
  }
}

/** @returns {Member} */
const toMember = (info) => ({ client: info.client, user: info.user, connInfo: info.conn_info, chanInfo: info.chan_info });

/** @returns {Publication} */
function toPublication(channel, pub) {
  return { channel, data: pub.data, offset: pub.offset, tags: pub.tags, info: pub.info && toMember(pub.info) };
}

async function fetchToken(getToken, channel) {
  const token = await getToken(channel);
  if (!token) throw new TidewireError(101, "there is no token for this user");
  if (typeof token !== "string") throw new TidewireError(101, `getToken gave a value of type ${typeof token}, not text`);
  return token;
}

/** Make a client that connects at once. `url` may be relative to the page; without one it is the server's own. */
export function connect(url, options = {}) {
  const client = new Client(url, options);
  client.connect();
  return client;
}

/**
 * One connection, which comes back by itself.
 *
 * Events: `connecting` { code, reason }, `connected` { client, data }, `disconnected` { code, reason }: for good;
 * `error` TidewireError; `message` { data }; and for channels that the server chose: `publication`, `join`, `leave`,
 * `subscribed`, `unsubscribed`.
 */
export class Client extends Emitter {
  #url;
  #options;
  #token;
  #socket = null;
  #calls = new Map();
  #frame = [];
  #lastId = 0;
  #attempt = 0;
  #flow = 0;
  #timers = {};
  #subscriptions = new Map();
  #chosen = new Map();
  #patience = 0;
  #wake = () => globalThis.document?.visibilityState !== "hidden" && this.#look();
  // A browser keeps a page that was left for the Back button, with its sockets: nobody is there who reads them.
  #leave = () => this.#rest(0, "the page was left");
  #return = ({ persisted }) => persisted && this.#look();

  /** "disconnected", "connecting" or "connected". */
  state = "disconnected";
  /** The connection's id while it is connected. */
  id = null;

  /** @param {string} [url] @param {Options} [options] */
  constructor(url = "/connection/websocket", options = {}) {
    super();
    const absolute = new URL(url, globalThis.location?.href);
    absolute.protocol = absolute.protocol.replace("http", "ws");
    this.#url = absolute.href;
    this.#options = { timeout: 5_000, name: "tidewire.js", ...options };
    this.#token = options.token ?? "";
  }

  /** Connect, and stay connected until `disconnect`. */
  connect() {
    if (this.state !== "disconnected") return;
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.addEventListener?.("pagehide", this.#leave);
    globalThis.addEventListener?.("pageshow", this.#return);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    this.#attempt = 0;
    this.#become("connecting", { code: 0, reason: "connect called" });
    this.#open();
  }

  /** Leave; subscriptions are taken up again by the next `connect`. */
  disconnect() {
    this.#end(0, "disconnect called");
  }

  /**
   * Subscribe to a channel; the same channel gives the same subscription.
   * @param {string} channel
   * @param {(publication: Publication) => void} [listener]
   * @param {ChannelOptions} [options]
   * @returns {Subscription}
   */
  subscribe(channel, listener, options = {}) {
    const subscription = this.#begin(Subscription, channel, options);
    if (listener) subscription.on("publication", listener);
    return subscription;
  }

  /**
   * Subscribe to a channel that is a map; the same channel gives the same one.
   * @param {string} channel
   * @param {(entries: Map<string, any>, keys: string[]) => void} [listener] called with all entries, and the keys of
   * those that changed
   * @param {ChannelOptions} [options]
   * @returns {EntryMap}
   */
  map(channel, listener, options = {}) {
    const subscription = this.#begin(EntryMap, channel, options);
    if (listener) subscription.on("change", ({ entries, keys }) => listener(entries, keys));
    return subscription;
  }

  /**
   * Track keys of a channel's polled values; the same channel gives the same ones.
   * @param {string} channel
   * @param {string[]} keys
   * @param {(values: Map<string, any>, keys: string[]) => void} [listener] called with all values, and the keys of
   * those that changed
   * @param {PollOptions} [options]
   * @returns {PolledValues}
   */
  poll(channel, keys, listener, options = {}) {
    const subscription = this.#begin(PolledValues, channel, options);
    if (listener) subscription.on("change", (change) => listener(change.values, change.keys));
    subscription.track(keys);
    return subscription;
  }

  #begin(Kind, channel, options) {
    let subscription = this.#subscriptions.get(channel);
    if (!subscription) {
      subscription = new Kind(this, channel, options);
      this.#subscriptions.set(channel, subscription);
      if (this.#isGreeted) subscription._subscribe();
    }
    return subscription;
  }

  async _setEntry(channel, key, data, removed) {
    await this.#ask("publish", { channel, type: 1, key, data, removed });
  }

  /** Publish JSON in a channel. */
  async publish(channel, data) {
    await this.#ask("publish", { channel, data });
  }

  /** @returns {Promise<Member[]>} who is in a channel, one entry a connection */
  async presence(channel) {
    return Object.values((await this.#ask("presence", { channel })).presence ?? {}).map(toMember);
  }

  /** @returns {Promise<{ clients: number, users: number }>} */
  async presenceStats(channel) {
    const { num_clients: clients = 0, num_users: users = 0 } = await this.#ask("presence_stats", { channel });
    return { clients, users };
  }

  /**
   * Read a channel's history; without a limit, only its position.
   * @param {{ limit?: number, since?: Position, reverse?: boolean }} [options]
   * @returns {Promise<{ publications: Publication[], position: Position }>}
   */
  async history(channel, { limit = 0, since, reverse = false } = {}) {
    const { publications = [], offset = 0, epoch = "" } = await this.#ask("history", { channel, limit, since, reverse });
    return { publications: publications.map((pub) => toPublication(channel, pub)), position: { offset, epoch } };
  }

  /** Call the application; returns its answer. */
  async rpc(method, data) {
    return (await this.#ask("rpc", { method, data })).data;
  }

  /** Tell the application something that it does not answer. */
  async send(data) {
    await this.ready();
    this._write({ send: { data } });
  }

  /** Wait until it is connected; rejects when that takes longer than the timeout, or can't be any more. */
  async ready() {
    if (this.state === "connected") return;
    if (this.state === "disconnected") throw closed("this client is disconnected");
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(reject, closed("not connected in time")), this.#options.timeout);
      const stop = [
        this.on("connected", () => settle(resolve)),
        this.on("disconnected", ({ code, reason }) => settle(reject, new TidewireError(code || 11, reason))),
      ];
      const settle = (done, value) => {
        clearTimeout(timer);
        for (const off of stop) off();
        done(value);
      };
    });
  }

  async #ask(method, params) {
    await this.ready();
    return this._call(method, params);
  }

  // Commands. Those of one turn go out in one frame, so that a connect brings its subscribes along.

  /** `take` gets the answer before any message behind it is handled; the promise comes later. */
  _call(method, params, take) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#calls.delete(id);
        reject(new TidewireError(1, `no answer to ${method} in time`));
      }, this.#options.timeout);
      this.#calls.set(id, { method, resolve, reject, timer, take });
      this._write({ id, [method]: params });
    });
  }

  _write(command) {
    if (this.#frame.push(JSON.stringify(command)) > 1) return;
    queueMicrotask(() => {
      const frame = this.#frame.splice(0).join("\n");
      if (frame && this.#socket?.readyState === 1) this.#socket.send(frame);
    });
  }

  _forget(subscription) {
    if (this.#subscriptions.get(subscription.channel) === subscription) this.#subscriptions.delete(subscription.channel);
  }

  // The connection.

  #become(state, value) {
    this.state = state;
    this._emit(state, value);
  }

  /** Emit the error of an attempt; false if the attempt is over, as when a listener disconnects. */
  #tell(error, flow) {
    if (flow === this.#flow) this._emit("error", error);
    return flow === this.#flow;
  }

  #set(name, milliseconds, callback) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(callback, Math.min(milliseconds, LONGEST_TIMER));
  }

  async #open() {
    const flow = ++this.#flow;
    try {
      if (!this.#token && this.#options.getToken) {
        const token = await fetchToken(this.#options.getToken);
        if (flow !== this.#flow) return;
        this.#token = token;
      }
    } catch (error) {
      if (!this.#tell(error, flow)) return;
      if (error.code === 101) this.#end(101, error.message);
      else this.#retry(11, "no token");
      return;
    }
    const WebSocketClass = this.#options.WebSocket ?? globalThis.WebSocket;
    let socket;
    try {
      if (!WebSocketClass) throw new Error("there is no WebSocket here; give one as the option WebSocket");
      socket = new WebSocketClass(this.#url);
    } catch (error) {
      const problem = new TidewireError(108, error.message);
      if (this.#tell(problem, flow)) this.#end(problem.code, problem.message);
      return;
    }
    this.#socket = socket;
    this.#set("silence", this.#options.timeout + PING_GRACE, () => this._lost(11, "the server does not answer"));
    socket.onopen = () => flow === this.#flow && this.#greet(flow);
    socket.onmessage = ({ data }) => flow === this.#flow && this.#read(data);
    const silent = () => (this.#isGreeted ? "connection lost" : "no connection");
    socket.onclose = ({ code, reason }) => flow === this.#flow && this._lost(code, reason || silent());
    // A close comes next, except in some versions of Node, where an error that nobody takes ends the program.
    socket.onerror = () => flow === this.#flow && this.#set("silence", CLOSE_GRACE, () => this._lost(11, "no connection"));
  }

  async #greet(flow) {
    const { data, name } = this.#options;
    const subs = {};
    for (const [channel, position] of this.#chosen) if (position) subs[channel] = { recover: true, ...position };
    const connecting = this._call("connect", { token: this.#token || undefined, data, name, subs }, (reply) => {
      if (flow === this.#flow) this.#connected(reply);
    });
    this.#isGreeted = true;
    for (const subscription of this.#subscriptions.values()) subscription._subscribe();
    try {
      await connecting;
    } catch (error) {
      if (!this.#tell(error, flow)) return;
      const isRenewed = error.code === TOKEN_EXPIRED && this.#options.getToken;
      if (isRenewed) this.#token = "";
      if (error.temporary || isRenewed) {
        this._lost(error.code, error.message);
      } else {
        this.#end(error.code, error.message);
      }
    }
  }

  #connected(reply) {
    this.id = reply.client;
    this.#patience = reply.ping ? reply.ping * 1_000 + PING_GRACE : 0;
    this.#pong = Boolean(reply.pong);
    this.#heard();
    this.#refreshIn(reply);
    this.#set("stable", STABLE, () => (this.#attempt = 0));
    this.#become("connected", { client: reply.client, data: reply.data });
    for (const channel of this.#chosen.keys()) if (!reply.subs?.[channel]) this.#unchosen(channel, 2000, "no longer");
    for (const [channel, answer] of Object.entries(reply.subs ?? {})) this.#choose(channel, answer);
  }

  #pong = false;
  /** The connect command was sent on this socket: others may be sent behind it at once. */
  #isGreeted = false;

  #heard() {
    if (this.#patience) this.#set("silence", this.#patience, () => this._lost(11, "no ping"));
    else clearTimeout(this.#timers.silence);
  }

  #refreshIn({ expires, ttl }) {
    clearTimeout(this.#timers.refresh);
    if (expires && this.#options.getToken) this.#set("refresh", ttl * 1_000, () => this.#refresh());
  }

  async #refresh() {
    const flow = this.#flow;
    try {
      const token = await fetchToken(this.#options.getToken);
      if (flow !== this.#flow) return;
      this.#token = token;
      this.#refreshIn(await this._call("refresh", { token }));
    } catch (error) {
      if (!this.#tell(error, flow)) return;
      if (error.code === 101) this.#end(101, error.message);
      else this.#set("refresh", delay(4) + FIRST_DELAY, () => this.#refresh());
    }
  }

  /** The connection is of no use any more: come back, unless the server said that this makes no sense. */
  _lost(code, reason) {
    if (isFinal(code)) this.#end(code, reason);
    else this.#retry(code, reason);
  }

  #rest(code, reason) {
    this.#drop();
    this.#become("connecting", { code, reason });
  }

  #retry(code, reason) {
    this.#drop();
    if (code === 3014) {
      this.#token = this.#options.getToken ? "" : this.#token;
      for (const subscription of this.#subscriptions.values()) subscription._invalidate();
      for (const channel of this.#chosen.keys()) this.#chosen.set(channel, { offset: 0, epoch: "_" });
    }
    this.#set("retry", delay(this.#attempt++, Math.random, isSeen()), () => this.#open());
    this.#become("connecting", { code, reason });
  }

  #end(code, reason) {
    if (this.state === "disconnected") return;
    this.#drop();
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.removeEventListener?.("pagehide", this.#leave);
    globalThis.removeEventListener?.("pageshow", this.#return);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    this.#become("disconnected", { code, reason });
  }

  #drop() {
    this.#flow += 1;
    this.id = null;
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#isGreeted = false;
    this.#frame = [];
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {}; // closed while it connects, it may tell so later
      socket.close();
    }
    for (const subscription of this.#subscriptions.values()) subscription._wait();
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const { reject, timer } of calls) {
      clearTimeout(timer);
      reject(closed());
    }
  }

  // The network came back, or the person did: a wait ends now, and a socket that was long silent is tested.
  #look() {
    if (this.state === "connecting" && !this.#socket) {
      clearTimeout(this.#timers.retry);
      this.#open();
    } else if (this.state === "connected") {
      const flow = this.#flow;
      // any answer will do, and this one changes nothing
      this._call("unsubscribe", { channel: "nobody:is:here" }).catch((error) => {
        if (error.code === 1 && flow === this.#flow) this._lost(11, "the server does not answer");
      });
    }
  }

  // Frames of the server.

  #read(text) {
    this.#heard();
    for (const line of text.split("\n")) {
      if (!line) continue;
      try {
        this.#take(JSON.parse(line));
      } catch (error) {
        this.#unreadable(line, error);
      }
    }
  }

  #take(reply) {
    if (reply.id) this.#answer(reply);
    else if (reply.push) this.#push(reply.push);
    else if (this.#pong) this._write({});
  }

  // One line that cannot be read must not end the others: it becomes an `error`, with its kind as far as that can be seen.
  #unreadable(line, error) {
    const id = Number(/^\{"id":(\d+)/.exec(line)?.[1] ?? 0);
    const channel = /"channel":"((?:[^"\\]|\\.)*)"/.exec(line)?.[1];
    const offset = /"offset":(\d+)[^"]*$/.exec(line)?.[1];
    const name = channel === undefined ? line.slice(0, 80) : `publication ${offset ?? "?"} of ${channel}`;
    const problem = new TidewireError(107, `the server sent a message that cannot be read (${name}): ${error.message}`);
    this._emit("error", problem);
    if (this.#calls.has(id)) this.#answer({ id, error: problem });
  }

  #answer({ id, error, ...results }) {
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (error) call.reject(new TidewireError(error.code, error.message, error.temporary));
    else {
      const result = results[call.method] ?? {};
      call.take?.(result);
      call.resolve(result);
    }
  }

  #push(push) {
    const { channel = "" } = push;
    const subscription = this.#subscriptions.get(channel);
    if (push.disconnect) this._lost(push.disconnect.code, push.disconnect.reason);
    else if (push.message) this._emit("message", { data: push.message.data });
    else if (push.refresh) this.#refreshIn(push.refresh);
    else if (subscription) subscription._push(push);
    else if (push.subscribe) this.#choose(channel, push.subscribe);
    else if (push.unsubscribe) this.#unchosen(channel, push.unsubscribe.code, push.unsubscribe.reason);
    else if (push.pub) this.#publication(channel, push.pub);
    else if (push.join) this._emit("join", { channel, ...toMember(push.join.info) });
    else if (push.leave) this._emit("leave", { channel, ...toMember(push.leave.info) });
  }

  // Channels that the server chose.

  #choose(channel, answer) {
    this.#chosen.set(channel, answer.recoverable ? { offset: answer.offset ?? 0, epoch: answer.epoch ?? "" } : null);
    this._emit("subscribed", toSubscribed(channel, answer));
    for (const pub of answer.publications ?? []) this.#publication(channel, pub);
  }

  #unchosen(channel, code, reason) {
    if (this.#chosen.delete(channel)) this._emit("unsubscribed", { channel, code, reason });
  }

  #publication(channel, pub) {
    const position = this.#chosen.get(channel);
    if (position && pub.offset) position.offset = pub.offset;
    this._emit("publication", toPublication(channel, pub));
  }
}

/** @returns {Subscribed} */
function toSubscribed(channel, { was_recovering, recovered, recoverable, positioned, offset = 0, epoch = "", data }) {
  const position = recoverable || positioned ? { offset, epoch } : undefined;
  return { channel, wasRecovering: Boolean(was_recovering), recovered: Boolean(recovered), position, data };
}

/** Publications among which the newest text is looked for, and texts that are remembered. */
const TEXTS_BACK = 20, TEXTS = 100;

/**
 * Read the texts that a server writes into a channel (`hub.stream`), with a subscription of this client or of the
 * Centrifuge SDK. A text that has begun earlier is read from the channel's history.
 * @param {Subscription} subscription
 * @param {(text: { stream: string, text: string, end: "" | "done" | "stopped" | "aborted" }) => void} listener called
 * with the whole text whenever it has grown
 */
export function readTexts(subscription, listener) {
  const texts = new Map();

  function take({ stream, at, text, end = "" }) {
    const known = texts.get(stream) ?? { stream, text: "", end: "" };
    const place = at ?? known.text.length;
    if (known.end) return true;
    if (place > known.text.length) return false; // its beginning is not here
    const whole = known.text.slice(0, place) + text;
    if (whole.length < known.text.length && !end) return true; // an older one
    if (!texts.has(stream) && texts.size >= TEXTS) texts.delete(texts.keys().next().value);
    texts.set(stream, { stream, text: whole, end });
    listener({ stream, text: whole, end });
    return true;
  }

  const isChunk = ({ data }) => typeof data?.stream === "string" && typeof data.text === "string";
  let isReading = false;

  async function readBack() {
    if (isReading) return;
    isReading = true;
    try {
      const { publications } = await subscription.history({ limit: TEXTS_BACK, reverse: true });
      const chunks = publications.filter(isChunk).map(({ data }) => data);
      // the newest text, and what is missing of those before it that have not ended here
      for (const chunk of chunks.reverse()) if (chunk === chunks.at(-1) || texts.has(chunk.stream)) take(chunk);
    } catch {
      // it begins again with the next whole chunk
    } finally {
      isReading = false;
    }
  }

  subscription.on("publication", (publication) => {
    if (isChunk(publication) && !take(publication.data)) readBack();
  });
  subscription.on("subscribed", readBack);
  if (subscription.state === "subscribed") readBack();
}

/**
 * One channel that is subscribed to.
 *
 * Events: `publication` Publication; `subscribed` Subscribed: where `wasRecovering` is true and `recovered` is not,
 * something was missed that is not there any more (after a call of `getState` the first is false: its state is fresh);
 * where the channel has a state and nothing was recovered, `data` is that state, and publications come after it;
 * `unsubscribed` { code, reason }: for good; `join`, `leave` Member; `error` TidewireError.
 */
export class Subscription extends Emitter {
  #client;
  #options;
  #token;
  #position;
  /** The position is that of a state which no answer has joined yet. */
  #isFresh = false;
  #loading = new AbortController();
  #flow = 0;
  #attempt = 0;
  #timer = 0;
  /** This connection was told of it. */
  #isAsked = false;

  /** "subscribing", "subscribed" or "unsubscribed". */
  state = "subscribing";

  constructor(client, channel, options) {
    super();
    this.#client = client;
    this.channel = channel;
    this.#options = options;
    this.#token = options.token ?? "";
    this.#position = options.since ? { ...options.since } : null;
  }

  /** Where the channel was left: give it to another `subscribe` as `since`. */
  get position() {
    return this.#position && { ...this.#position };
  }

  /** Unsubscribe from the channel. */
  unsubscribe() {
    if (this.state === "unsubscribed") return;
    if (this.#isAsked) {
      this.#client._call("unsubscribe", { channel: this.channel }).catch((error) => {
        if (error.code !== 11) this.#client._lost(error.code < 100 ? error.code : 11, error.message);
      });
    }
    this.#end(0, "unsubscribe called");
  }

  publish(data) {
    return this.#client.publish(this.channel, data);
  }

  presence() {
    return this.#client.presence(this.channel);
  }

  presenceStats() {
    return this.#client.presenceStats(this.channel);
  }

  history(options) {
    return this.#client.history(this.channel, options);
  }

  // Calls of the application.

  async _subscribe() {
    if (this.state !== "subscribing") return;
    const flow = ++this.#flow;
    const { getToken, getState, data, recoverable = true, joinLeave } = this.#options;
    try {
      if (!this.#token && getToken) {
        const token = await fetchToken(getToken, this.channel);
        // the flow is another one once the connection was lost
        if (flow !== this.#flow) return;
        this.#token = token;
      }
      if (getState && !this.#position) {
        this.#loading = new AbortController();
        const position = await getState(this.channel, this.#loading.signal);
        if (flow !== this.#flow) return;
        this.#position = { ...position };
        this.#isFresh = true;
      }
      this.#isAsked = true;
      const recovering = this.#position ? { recover: true, ...this.#position } : {};
      const request = {
        channel: this.channel, token: this.#token || undefined, data, recoverable, join_leave: joinLeave, ...recovering,
        flag: getState ? 2 : undefined,
      };
      for (let page = {}; page && flow === this.#flow; ) {
        const take = (answer) => flow === this.#flow && (answer.phase ? this._page(answer) : this.#subscribed(answer));
        const answer = await this.#client._call("subscribe", this._request(request, page.cursor), take);
        page = answer.phase && answer;
      }
    } catch (error) {
      if (flow === this.#flow && error.code !== 11) this.#refused(error);
    }
  }

  _request(request) {
    return request;
  }

  _page() {}

  _began() {}

  _publish(pub) {
    this._emit("publication", toPublication(this.channel, pub));
  }

  get _beginsAnew() {
    return Boolean(this.#options.getState);
  }

  _wait() {
    this.#flow += 1;
    this.#loading.abort();
    this.#isAsked = false;
    clearTimeout(this.#timer);
    if (this.state === "subscribed") this.state = "subscribing";
  }

  _invalidate() {
    if (this.#options.getToken) this.#token = "";
    if (this.#position) this.#position = { offset: 0, epoch: "_" };
  }

  _push(push) {
    if (push.pub) this.#publication(push.pub);
    else if (push.join) this._emit("join", toMember(push.join.info));
    else if (push.leave) this._emit("leave", toMember(push.leave.info));
    else if (push.unsubscribe) this.#thrownOut(push.unsubscribe);
  }

  #subscribed(answer) {
    this.state = "subscribed";
    this.#attempt = 0;
    this.#position = answer.recoverable ? { offset: answer.offset ?? 0, epoch: answer.epoch ?? "" } : null;
    this.#refreshIn(answer);
    const begun = this.#isFresh ? { ...answer, was_recovering: false } : answer;
    this.#isFresh = false;
    this._emit("subscribed", toSubscribed(this.channel, begun));
    this._began(answer);
    for (const pub of answer.publications ?? []) this.#publication(pub);
  }

  #publication(pub) {
    if (this.#position && pub.offset) this.#position.offset = pub.offset;
    this._publish(pub);
  }

  #refused(error) {
    if (error.code === UNRECOVERABLE && this._beginsAnew) {
      this.#position = null;
      this.#again();
      return;
    }
    if (!this.#tell(error, this.#flow)) return;
    if (error.code === 1) this.#client._lost(11, "no answer to a subscribe");
    else if (error.code === TOKEN_EXPIRED && this.#options.getToken) {
      this.#token = "";
      this.#again();
    } else if (error.temporary || error.code === undefined) this.#again();
    else this.#end(error.code, error.message);
  }

  /** As that of the client. */
  #tell(error, flow) {
    if (flow === this.#flow) this._emit("error", error);
    return flow === this.#flow;
  }

  #again() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#client.state === "connected" && this._subscribe(), delay(this.#attempt++));
  }

  #thrownOut({ code, reason }) {
    if (code < 2500) {
      this.#end(code, reason);
      return;
    }
    if (code === 2502) this._invalidate();
    this._wait();
    this.#again();
  }

  #end(code, reason) {
    this._wait();
    this.state = "unsubscribed";
    this.#client._forget(this);
    this._emit("unsubscribed", { code, reason });
  }

  #refreshIn({ expires, ttl }) {
    clearTimeout(this.#timer);
    if (expires && this.#options.getToken) {
      this.#timer = setTimeout(() => this.#refresh(), Math.min(ttl * 1_000, LONGEST_TIMER));
    }
  }

  async #refresh() {
    const flow = this.#flow;
    try {
      const token = await fetchToken(this.#options.getToken, this.channel);
      if (flow !== this.#flow) return;
      this.#token = token;
      const answer = await this.#client._call("sub_refresh", { channel: this.channel, token });
      if (flow === this.#flow) this.#refreshIn(answer);
    } catch (error) {
      if (!this.#tell(error, flow)) return;
      if (error.code === 101) this.unsubscribe();
      else this.#timer = setTimeout(() => this.#refresh(), delay(4) + FIRST_DELAY);
    }
  }
}

/**
 * A channel that is a map: `entries` by their keys.
 *
 * Events: `change` { entries, keys } with the changed keys: of one change, or all that differs after a time away;
 * the rest as of a Subscription.
 */
export class EntryMap extends Subscription {
  entries = new Map();
  #pages = new Map();
  #client;

  constructor(client, channel, options) {
    super(client, channel, options);
    this.#client = client;
  }

  /** Set an entry to a value of JSON. */
  set(key, value) {
    return this.#client._setEntry(this.channel, key, value, undefined);
  }

  /** Remove an entry. */
  remove(key) {
    return this.#client._setEntry(this.channel, key, undefined, true);
  }

  _request(request, cursor) {
    if (!cursor) this.#pages = new Map();
    return { ...request, flag: undefined, type: 1, phase: request.recover ? 1 : 2, cursor };
  }

  _page({ state = [] }) {
    for (const { key, data } of state) this.#pages.set(key, data);
  }

  _began(answer) {
    this._page(answer);
    const before = this.entries;
    if (answer.recovered) return;
    this.entries = this.#pages;
    const same = (key) => JSON.stringify(before.get(key)) === JSON.stringify(this.entries.get(key));
    const keys = [...new Set([...before.keys(), ...this.entries.keys()])];
    this._emit("change", { entries: this.entries, keys: keys.filter((key) => !same(key)) });
  }

  _publish({ key, data, removed }) {
    if (removed) this.entries.delete(key);
    else this.entries.set(key, data);
    this._emit("change", { entries: this.entries, keys: [key] });
  }

  get _beginsAnew() {
    return true;
  }
}

/**
 * Polled values of a channel: `values` by their keys.
 *
 * Events: `change` { values, keys } with the keys of what changed; the rest as of a Subscription.
 */
export class PolledValues extends Subscription {
  values = new Map();
  /** The version of each tracked key that is here; 0: none yet. */
  #versions = new Map();
  #epoch = "";
  #round = 0;
  #timers = new Set();
  /** Keys that had a value, which are tracked again: they may have one again. */
  #removed = [];
  #client;
  #getSignature;

  constructor(client, channel, options) {
    super(client, channel, options);
    this.#client = client;
    this.#getSignature = options.getSignature;
  }

  /** Track more keys. */
  track(keys) {
    const added = keys.filter((key) => !this.#versions.has(key));
    for (const key of added) this.#versions.set(key, 0);
    if (this.state === "subscribed") this.#track(added);
  }

  /** Track keys no more. */
  untrack(keys) {
    const known = keys.filter((key) => this.#versions.delete(key));
    this.#forget(known);
    if (known.length && this.state === "subscribed") this.#ask({ type: 2, untrack: known }).catch(() => {});
  }

  async #track(keys) {
    if (!keys.length) return;
    const round = this.#round;
    try {
      const signed = this.#getSignature ? await this.#getSignature(keys) : { keys, signature: "" };
      if (round !== this.#round) return;
      this.#forget(keys.filter((key) => !signed.keys.includes(key)));
      if (!signed.keys.length) return;
      const items = signed.keys.map((key) => ({ key, version: this.#versions.get(key) ?? 0 }));
      const untrack = signed.keys.filter((key) => !this.#versions.has(key));
      const answer = await this.#ask({ type: 1, track: [{ items, signature: signed.signature }], untrack });
      if (round === this.#round && answer.expires) this.#trackIn(answer.ttl * 1_000, [...signed.keys]);
    } catch (error) {
      if (round !== this.#round || error.code === 11) return;
      this._emit("error", error);
      if (!(error.code >= 100)) this.#trackIn(delay(4), keys);
    }
  }

  #trackIn(milliseconds, keys) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#track(keys.splice(0).filter((key) => this.#versions.has(key)));
    }, Math.min(milliseconds, LONGEST_TIMER));
    this.#timers.add(timer);
  }

  #ask(request) {
    return this.#client._call("sub_refresh", { channel: this.channel, ...request });
  }

  #forget(keys) {
    const gone = keys.filter((key) => this.values.delete(key));
    if (gone.length) this._emit("change", { values: this.values, keys: gone });
  }

  _request(request) {
    return { ...request, flag: undefined, type: 4 };
  }

  _began({ epoch = "" }) {
    // versions of another epoch say nothing here
    if (epoch !== this.#epoch) {
      this.#forget([...this.values.keys()]);
      for (const key of this.#versions.keys()) this.#versions.set(key, 0);
    }
    this.#epoch = epoch;
    this.#track([...this.#versions.keys()]);
  }

  _publish({ key, data, version = 0, removed }) {
    if (!this.#versions.has(key)) return;
    this.#versions.set(key, removed ? 0 : version);
    if (removed) {
      this.#forget([key]);
      if (this.#removed.push(key) === 1) this.#trackIn(AGAIN, this.#removed);
    } else {
      this.values.set(key, data);
      this._emit("change", { values: this.values, keys: [key] });
    }
  }

  _wait() {
    super._wait();
    this.#round += 1;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#removed = [];
  }
}
