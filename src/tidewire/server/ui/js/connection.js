// The socket, and how it is kept: back-off, liveness, and the moments at which it connects at once.
// Below it stands the browser's WebSocket; above it, client.js gives the messages their meaning.
//
// States: idle, connecting, connected, waiting (with `until`), final (with `code` and `reason`).

import { delay, isFinal, restartDelay } from "./backoff.js";
import { Emitter } from "./emitter.js";

const SILENCE = 25_000;
const PONG = 10_000;
const QUICK_PONG = 4_000;
const HANDSHAKE = 10_000;
const STABLE = 5_000;

export class Connection extends Emitter {
  #address;
  #hello;
  #socket = null;
  #attempt = 0;
  #heard = 0;
  #timers = { retry: 0, silence: 0, pong: 0, handshake: 0, stable: 0 };

  state = { name: "idle" };

  /** `address()` gives the URL and `hello()`, where there is one, the first message of each attempt. */
  constructor({ address, hello = null }) {
    super();
    this.#address = address;
    this.#hello = hello;
    addEventListener("online", () => this.#wake());
    addEventListener("offline", () => this.#doubt());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#wake();
    });
    // A browser keeps a page that was left for the Back button, with its socket: nobody is there who reads it.
    addEventListener("pagehide", () => this.#lost(this.#socket, 0, ""));
    addEventListener("pageshow", ({ persisted }) => persisted && this.#wake());
  }

  start() {
    if (this.state.name === "idle" || this.state.name === "final") this.#open();
  }

  stop() {
    this.#drop();
    this.#clear();
    this.#become({ name: "idle" });
  }

  /** Try at once instead of at the end of the wait. */
  retryNow() {
    if (this.state.name === "waiting" || this.state.name === "final") this.#open();
  }

  /**
   * Send one message; returns false when there is nothing to send it on.
   * @param {import("./channels").Channels["chat"]["accepted"]} message
   */
  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Called when the server has answered with the messages so far: now the connection is of use. */
  ready() {
    clearTimeout(this.#timers.handshake);
    if (this.state.name !== "connecting") return;
    this.#timers.stable = setTimeout(() => (this.#attempt = 0), STABLE);
    this.#become({ name: "connected" });
  }

  #become(state) {
    this.state = state;
    this.emit("state", state);
  }

  #clear() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #open() {
    this.#drop();
    this.#clear();
    this.#become({ name: "connecting", again: this.#attempt > 0 });
    const socket = new WebSocket(this.#address());
    this.#socket = socket;
    this.#heard = Date.now();
    this.#timers.handshake = setTimeout(() => this.#lost(socket, 0, ""), HANDSHAKE);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      if (this.#hello) this.send(this.#hello());
      this.#watchSilence();
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#received(data);
    };
    socket.onclose = ({ code, reason }) => this.#lost(socket, code, reason);
  }

  #received(data) {
    this.#heard = Date.now();
    clearTimeout(this.#timers.pong);
    this.#timers.pong = 0;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    this.emit("message", message);
  }

  #lost(socket, code, reason) {
    if (!socket || socket !== this.#socket) return;
    this.#drop();
    this.#clear();
    this.emit("lost", code);
    if (isFinal(code)) {
      this.#become({ name: "final", code, reason });
      return;
    }
    const wait = code === 1012 && this.#attempt === 0 ? restartDelay() : delay(this.#attempt, Math.random, document.visibilityState === "visible");
    this.#attempt += 1;
    this.#timers.retry = setTimeout(() => this.#open(), wait);
    this.#become({ name: "waiting", until: Date.now() + wait, code, reason });
  }

  #watchSilence() {
    const left = this.#heard + SILENCE - Date.now();
    if (left <= 0) this.#ping(PONG);
    this.#timers.silence = setTimeout(() => this.#watchSilence(), left > 0 ? left : SILENCE);
  }

  #ping(patience) {
    const socket = this.#socket;
    if (!this.send({ type: "ping" })) return;
    clearTimeout(this.#timers.pong);
    this.#timers.pong = setTimeout(() => this.#lost(socket, 0, ""), patience);
  }

  // The network came back, or the person did: a wait ends now, and a socket that was long silent is tested.
  #wake() {
    if (this.state.name === "waiting") this.retryNow();
    else if (Date.now() - this.#heard > PONG) this.#ping(QUICK_PONG);
  }

  // The browser says offline. It may be wrong (a server on this machine), so the socket is tested, not dropped.
  #doubt() {
    if (this.state.name === "connected") this.#ping(QUICK_PONG);
    this.emit("state", this.state);
  }
}
