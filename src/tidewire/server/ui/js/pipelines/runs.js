// The list of runs: fetched once, then kept as the server's notices say. Where none come it is asked for again and again
// while somebody looks: often while something runs.
//
// Emits "change", and "locked" when the server wants to know who asks.

import { Refusal } from "../api.js";
import { Emitter } from "../emitter.js";
import { isActive } from "./words.js";

const SOON = 100;
const BUSY = 3_000;
const CALM = 15_000;
const LIVE = 60_000;
const WAITING = { status: "waiting", progress: 0, started: null };

export class Runs extends Emitter {
  #api;
  #notices;
  #timer = 0;
  #next = null;
  #isStopped = true;
  #isAsking = false;
  #isOutdated = false;

  /** The newest first; null until the server has answered. */
  runs = null;
  problem = "";
  hasMore = false;

  constructor(api, notices) {
    super();
    this.#api = api;
    this.#notices = notices;
    notices.on("stale", () => this.#outdated());
    notices.on("news", (news) => this.#heard(news));
    notices.on("lost", () => this.#soon(BUSY));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible" && !notices.isLive) this.#soon(0);
    });
  }

  start() {
    this.#isStopped = false;
    this.#soon(0);
    this.#notices.start();
  }

  stop() {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    this.#notices.stop();
  }

  /** The state of a run that the page has just heard, so that the list is not older than the run beside it. */
  took(run) {
    const known = (this.runs ?? []).some(({ id }) => id === run.id);
    if (known) this.runs = this.runs.map((one) => (one.id === run.id ? run : one));
    else this.runs = [run, ...(this.runs ?? [])].sort((a, b) => b.created - a.created);
    this.emit("change");
  }

  forget(id) {
    this.runs = (this.runs ?? []).filter((run) => run.id !== id);
    this.emit("change");
  }

  async more() {
    const before = this.#next;
    if (!before) return;
    await this.#ask(async () => {
      const { runs, next } = await this.#api.runs({ before });
      this.#next = next;
      this.#merge(runs);
    });
  }

  // Notices of the server.

  #heard({ changed = [], removed = [] }) {
    if (this.#isAsking) this.#isOutdated = true; // the answer may be older than this
    if (!this.runs) return;
    const known = new Set(this.runs.map(({ id }) => id));
    const oldest = this.#next ? this.runs.at(-1).created : -Infinity;
    if (changed.some(({ run, created }) => !known.has(run) && created > oldest)) this.#outdated();
    const notices = new Map(changed.map((notice) => [notice.run, notice]));
    this.runs = this.runs
      .filter(({ id }) => !removed.includes(id))
      .map((run) => (notices.has(run.id) ? patched(run, notices.get(run.id)) : run));
    this.emit("change");
  }

  #outdated() {
    if (this.#isAsking) this.#isOutdated = true;
    else this.#soon(SOON);
  }

  // Asking.

  #soon(wait) {
    clearTimeout(this.#timer);
    if (!this.#isStopped) this.#timer = setTimeout(() => this.#refresh(), wait);
  }

  async #refresh() {
    if (document.visibilityState === "visible" || this.#notices.isLive) {
      this.#isOutdated = false;
      await this.#ask(async () => {
        const { runs, next } = await this.#api.runs();
        const isFirst = this.runs === null || this.runs.length <= runs.length;
        if (isFirst) this.#next = next;
        this.#drop(runs, next);
        this.#merge(runs);
      });
    }
    this.#soon(this.#wait());
  }

  #wait() {
    if (this.#isOutdated) return SOON;
    if (this.#notices.isLive && !this.problem) return LIVE;
    return (this.runs ?? []).some(isActive) ? BUSY : CALM;
  }

  // A run that the newest page should list and does not has been deleted.
  #drop(runs, next) {
    const oldest = next ? runs.at(-1).created : -Infinity;
    const ids = new Set(runs.map(({ id }) => id));
    this.runs = (this.runs ?? []).filter(({ id, created }) => ids.has(id) || created < oldest);
  }

  #merge(runs) {
    const all = new Map([...(this.runs ?? []), ...runs].map((run) => [run.id, run]));
    this.runs = [...all.values()].sort((a, b) => b.created - a.created);
  }

  async #ask(work) {
    this.#isAsking = true;
    try {
      await work();
      this.problem = "";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 401) {
        this.emit("locked");
        return;
      }
      this.problem = error.message;
    } finally {
      this.#isAsking = false;
      if (this.#isOutdated) this.#soon(SOON);
      this.hasMore = this.#next !== null;
      this.emit("change");
    }
  }
}

function patched(run, { seq, status, progress, position, started, ended, steps }) {
  if (seq < run.seq) return run;
  return {
    ...run, seq, status, progress, position, started, ended,
    steps: run.steps.map((step) => ({ ...step, ...(steps[step.name] ?? WAITING) })),
  };
}
