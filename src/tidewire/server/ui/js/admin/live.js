// The figures of all nodes, which the nodes tell while this page looks; each node's newest is all that is kept.

import { read } from "./api.js";

/** A node that says nothing for so many of its pauses has ended; while the store is away, it may not be heard. */
const PAUSES = 2.2;

export class Live {
  #nodes = new Map();
  #stop = null;
  #timer = 0;
  #planned = false;

  /** `show` is given the nodes, at most once a frame; `failed` an Error, before it is tried again. */
  constructor(show, failed) {
    this.show = show;
    this.failed = failed;
  }

  open() {
    if (this.#stop) return;
    clearTimeout(this.#timer);
    const stop = (this.#stop = new AbortController());
    read("live", (node) => this.#take(node), stop.signal)
      .catch((error) => stop.signal.aborted || this.failed(error))
      .finally(() => {
        if (this.#stop !== stop) return;
        this.#stop = null;
        this.#timer = setTimeout(() => this.open(), 500);
      });
  }

  close() {
    clearTimeout(this.#timer);
    this.#stop?.abort();
    this.#stop = null;
    this.#nodes.clear();
  }

  #take(node) {
    const now = performance.now();
    this.#nodes.set(node.node, { node, until: now + node.pause * PAUSES * 1_000 });
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.#forget(performance.now());
      if (this.#stop) this.show([...this.#nodes.values()].map((one) => one.node).sort((one, other) => (one.node < other.node ? -1 : 1)));
    }, 100);
  }

  #forget(now) {
    const isAway = [...this.#nodes.values()].some((one) => one.node.degraded);
    for (const [name, { until }] of this.#nodes) if (until < now && !isAway) this.#nodes.delete(name);
  }
}
