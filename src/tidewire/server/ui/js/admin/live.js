// The figures of all nodes, which the nodes tell while this page looks; each node's newest is all that is kept.

import { read } from "./api.js";

/** A node that says nothing for so many of its pauses has ended; while the store is away, it may not be heard. */
const PAUSES = 2.1;
/** One that says something within so many of its pauses is on time; while none is, the way to this page is slow. */
const ON_TIME = 1.1;
/** Milliseconds until the stream is opened again: the first time, and after a failure. */
const AGAIN = 100;
const FAILED = 500;

export class Live {
  #nodes = new Map();
  #stop = null;
  #opening = 0;
  #showing = 0;
  #forgetting = 0;

  /** `show` is given the nodes, at most once a frame; `failed` an Error, before it is tried again. */
  constructor(show, failed) {
    this.show = show;
    this.failed = failed;
  }

  open() {
    if (this.#stop) return;
    clearTimeout(this.#opening);
    const stop = (this.#stop = new AbortController());
    let pause = AGAIN;
    read("live", (node) => this.#take(node), stop.signal)
      .catch((error) => {
        pause = FAILED;
        if (!stop.signal.aborted) this.failed(error);
      })
      .finally(() => {
        if (this.#stop !== stop) return;
        this.#stop = null;
        this.#opening = setTimeout(() => this.open(), pause);
      });
  }

  close() {
    for (const timer of [this.#opening, this.#showing, this.#forgetting]) clearTimeout(timer);
    this.#showing = 0;
    this.#stop?.abort();
    this.#stop = null;
    this.#nodes.clear();
  }

  #take(node) {
    this.#nodes.set(node.node, { node, late: after(node, ON_TIME), until: after(node, PAUSES) });
    this.#showing ||= setTimeout(() => this.#show(), 100);
  }

  #show() {
    this.#showing = 0;
    this.#forget();
    this.show([...this.#nodes.values()].map((one) => one.node).sort((one, other) => (one.node < other.node ? -1 : 1)));
    clearTimeout(this.#forgetting);
    const next = Math.min(...[...this.#nodes.values()].map((one) => one.until));
    const wait = next - performance.now();
    if (this.#nodes.size && wait > 0) this.#forgetting = setTimeout(() => this.#show(), wait);
  }

  #forget() {
    const now = performance.now();
    const nodes = [...this.#nodes.values()];
    const isAway = nodes.some((one) => one.node.degraded);
    const isHeard = nodes.some((one) => one.late > now);
    for (const [name, one] of this.#nodes) {
      if (isAway) one.until = after(one.node, PAUSES);
      else if (isHeard && one.until <= now) this.#nodes.delete(name);
    }
  }
}

const after = ({ pause }, pauses) => performance.now() + pause * pauses * 1_000;
