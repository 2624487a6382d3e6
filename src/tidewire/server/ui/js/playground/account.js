// The account of one client: which messages it got at once, which it missed, and which of those came back.

const MOST = 600;

/** Counts by offsets alone; knows nothing of connections. */
export class Account {
  /** Offset -> "live", "missed", "recovered" or "doubled", in the order in which they became known. */
  states = new Map();
  missed = 0;
  recovered = 0;
  doubled = 0;
  /** A message came behind a later one. */
  isDisordered = false;
  #last = 0;
  /** The client was told that something is gone for good. */
  told = false;

  /** Begin to count anew; the shown counts stay. */
  reset() {
    this.missed = this.recovered = this.doubled = 0;
    this.told = this.isDisordered = false;
    for (const [offset, state] of this.states) if (state === "missed") this.states.delete(offset);
  }

  /** Forget everything: offsets of another epoch, or another channel, say nothing of these. */
  clear() {
    this.reset();
    this.states.clear();
    this.#last = 0;
  }

  /** A message was published, as somebody else knows; `away`: this client cannot have it now. */
  published(offset, away) {
    const state = this.states.get(offset);
    if (state === undefined) this.#set(offset, away ? "missed" : "due");
    else if (state === "due" && away) this.states.set(offset, "missed");
    else return;
    if (away) this.missed += 1;
  }

  /** The client has lost its connection: the due messages do not come by it. */
  lost() {
    for (const [offset, state] of this.states) if (state === "due") this.published(offset, true);
  }

  /** The client was given a message. */
  got(offset) {
    const state = this.states.get(offset);
    if (offset < this.#last) this.isDisordered = true;
    this.#last = Math.max(this.#last, offset);
    if (state === undefined || state === "due") this.#set(offset, "live");
    else if (state === "missed") {
      this.recovered += 1;
      this.states.set(offset, "recovered");
    } else {
      this.doubled += 1;
      this.states.set(offset, "doubled");
    }
  }

  get outstanding() {
    return this.missed - this.recovered;
  }

  get sentence() {
    const gap = this.told && this.outstanding ? `, told of a gap of ${this.outstanding}` : "";
    return `missed ${this.missed}, recovered ${this.recovered}, doubled ${this.doubled}${gap}`;
  }

  #set(offset, state) {
    this.states.set(offset, state);
    if (this.states.size > MOST) this.states.delete(this.states.keys().next().value);
  }
}
