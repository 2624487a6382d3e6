// The log of one step as far as this page holds it: a stretch of bytes without a hole, of bounded length. No DOM.
//
// Pushed pieces say where they stand. If one does not begin at our end, the missing part is fetched.

import { Emitter } from "../emitter.js";

const PAGE = 65_536;
const HELD = 2_000_000;
const FAR = 4 * PAGE;
const NEWLINE = 10;
const PAUSE = 1_000;

export class StepLog extends Emitter {
  #fetch;
  #decoder = new TextDecoder();
  #wanted = 0;
  #busy = false;
  #isStale = false;

  /** Blocks of text, `{text, from, to}`; a block's end is the next one's beginning. */
  blocks = [];
  next = 0;
  isLoaded = false;

  /** `fetch({from, limit})` resolves to `{bytes, next, size}`. */
  constructor(fetch) {
    super();
    this.#fetch = fetch;
  }

  get start() {
    return this.blocks[0]?.from ?? this.next;
  }

  /** Fetch the newest part. */
  load() {
    return this.#alone(() => this.#newest());
  }

  /** A pushed piece. */
  pushed({ from, to, text }) {
    if (this.isLoaded && !this.#busy && from === this.next) {
      this.#append({ text, from, to });
      return;
    }
    this.#wanted = Math.max(this.#wanted, to);
    if (this.isLoaded && this.#wanted > this.next) this.#alone(() => this.#catchUp());
  }

  /** The connection was lost: fetch the missed text. */
  returned() {
    this.#isStale = true;
    return this.#alone(() => (this.isLoaded ? null : this.#newest()));
  }

  /** Fetch the text before the first block. */
  earlier() {
    return this.#alone(async () => {
      const end = this.start;
      const page = await this.#fetch({ from: Math.max(0, end - PAGE), limit: Math.min(PAGE, end) });
      const block = this.#whole(page);
      if (!block) return;
      this.blocks.unshift(block);
      this.emit("earlier", block);
    });
  }

  async #newest() {
    const page = await this.#fetch({ from: -PAGE, limit: PAGE });
    const block = this.#whole(page);
    this.next = page.next;
    this.blocks = block ? [block] : [];
    this.isLoaded = true;
    this.emit("reset");
    await this.#catchUp();
  }

  async #catchUp() {
    while (this.#wanted > this.next) {
      if (this.#wanted - this.next > FAR) {
        // A flood: nobody reads it all, and the network has better things to do.
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
        this.#wanted = 0;
        await this.#newest();
        return;
      }
      const { bytes, next } = await this.#fetch({ from: this.next, limit: this.#wanted - this.next });
      if (next <= this.next) return;
      this.#append({ text: this.#decoder.decode(bytes), from: this.next, to: next });
    }
  }

  #append(block) {
    this.blocks.push(block);
    this.next = block.to;
    this.emit("append", block);
    while (this.blocks.length > 1 && this.next - this.blocks[0].to > HELD) {
      this.emit("forget", this.blocks.shift());
    }
  }

  // A page that begins within a line begins with the next one: half a line, or half a letter, says nothing.
  #whole({ bytes, next }) {
    let from = next - bytes.length;
    const skipped = from > 0 ? bytes.indexOf(NEWLINE) + 1 : 0;
    from += skipped;
    return next > from ? { text: this.#decoder.decode(bytes.subarray(skipped)), from, to: next } : null;
  }

  // One request at a time; text that comes meanwhile is fetched afterwards.
  async #alone(work) {
    if (this.#busy) return;
    this.#busy = true;
    try {
      await work();
      if (this.isLoaded) await this.#catchUp();
      while (this.isLoaded && this.#isStale) {
        const { size } = await this.#fetch({ from: this.next, limit: 1 });
        this.#isStale = false;
        this.#wanted = Math.max(this.#wanted, size);
        await this.#catchUp();
      }
    } catch (error) {
      this.emit("problem", error);
    } finally {
      this.#busy = false;
    }
  }
}
