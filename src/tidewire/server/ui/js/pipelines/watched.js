// One run as it happens: the state that the server tells, and every event on top of it. No DOM.
//
// Emits "change" for each change, "log" with each piece of a log, "gone" when there is no such run.

import { Connection } from "../connection.js";
import { Emitter } from "../emitter.js";

export class WatchedRun extends Emitter {
  #api;
  #id = null;

  run = null;

  constructor(api) {
    super();
    this.#api = api;
    this.connection = new Connection({ address: () => api.eventsAddress(this.#id) });
    this.connection.on("message", (message) => this.#received(message));
  }

  watch(id) {
    if (id === this.#id) return;
    this.leave();
    this.#id = id;
    this.connection.start();
  }

  leave() {
    this.connection.stop();
    this.#id = null;
    this.run = null;
  }

  #received(message) {
    const handlers = {
      state: () => this.#state(message.run, message.seq),
      step: () => this.#event(message, () => this.#step(message)),
      run: () => this.#event(message, () => this.#status(message)),
      log: () => this.emit("log", message),
      error: () => this.#refused(message),
    };
    if (Object.hasOwn(handlers, message.type)) handlers[message.type]();
  }

  #state(run, seq) {
    this.connection.ready();
    this.run = { ...run, seq };
    this.emit("change", { type: "state" });
  }

  // Every event is one more than the one before. If not, the state is asked for again rather than guessed.
  #event(message, apply) {
    if (!this.run || message.seq <= this.run.seq) return;
    if (message.seq !== this.run.seq + 1) {
      this.connection.stop();
      this.connection.start();
      return;
    }
    this.run.seq = message.seq;
    apply();
    this.emit("change", message);
  }

  #step({ step: name, status, progress, total, message = "", attempt, error = "", lines = [], time }) {
    const step = this.run.steps.find((one) => one.name === name);
    if (!step) return;
    const isNew = step.status !== "running" || attempt !== step.attempt;
    if (status === "running" && isNew) Object.assign(step, { started: time, ended: null, error: "", lines: [] });
    if (status !== "running") step.ended = time;
    if (status === "failed") Object.assign(step, { error, lines });
    Object.assign(step, { status, progress, message, attempt });
    this.run.progress = total;
  }

  #status({ status, progress, position = null, error = "", time }) {
    const { run } = this;
    const isStart = status === "running" && run.status !== "running";
    const isEnd = status !== "running" && status !== "queued";
    Object.assign(run, { status, position, error, ended: isEnd ? time : null });
    if (progress !== undefined) run.progress = progress;
    if (isStart) run.started = time;
    if (isStart || status === "queued") this.#takeUp();
    if (isEnd) this.#stop(status === "finished" ? null : time);
  }

  // Resumed: the steps that were not done begin again.
  #takeUp() {
    for (const step of this.run.steps) {
      if (step.status !== "failed" && step.status !== "stopped") continue;
      Object.assign(step, { status: "waiting", progress: 0, message: "", error: "", lines: [], started: null, ended: null });
    }
  }

  #stop(time) {
    for (const step of this.run.steps) {
      if (step.status === "running" && time !== null) Object.assign(step, { status: "stopped", ended: time });
    }
  }

  #refused({ code, content }) {
    const id = this.#id;
    this.leave();
    this.emit("gone", { id, code, content });
  }
}
