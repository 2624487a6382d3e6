// The list of runs, asked for again and again while somebody looks: often while something runs.
//
// Emits "change", and "locked" when the server wants to know who asks.

import { Refusal } from "../api.js";
import { Emitter } from "../emitter.js";
import { isActive } from "./words.js";

const BUSY = 3_000;
const CALM = 15_000;

export class Runs extends Emitter {
  #api;
  #timer = 0;
  #next = null;
  #isStopped = true;

  /** The newest first; null until the server has answered. */
  runs = null;
  problem = "";
  hasMore = false;

  constructor(api) {
    super();
    this.#api = api;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#soon(0));
  }

  start() {
    this.#isStopped = false;
    this.#soon(0);
  }

  stop() {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  /** What the page has just heard of a run, so that the list is not older than what stands beside it. */
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

  #soon(wait) {
    clearTimeout(this.#timer);
    if (!this.#isStopped) this.#timer = setTimeout(() => this.#refresh(), wait);
  }

  async #refresh() {
    if (document.visibilityState === "visible") {
      await this.#ask(async () => {
        const { runs, next } = await this.#api.runs();
        const isFirst = this.runs === null || this.runs.length <= runs.length;
        if (isFirst) this.#next = next;
        this.#drop(runs, next);
        this.#merge(runs);
      });
    }
    this.#soon((this.runs ?? []).some(isActive) ? BUSY : CALM);
  }

  // What the newest page should hold and does not has been deleted.
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
      this.hasMore = this.#next !== null;
      this.emit("change");
    }
  }
}
