// The messages of one room or conversation, in one order and each once. No DOM, no network.

const KEPT = 3_000;
const TRIM = 500;

/** Order by the age of the epoch, then by offset, then by arrival (for entries without an offset). */
export function compare(a, b) {
  return a.era - b.era || a.offset - b.offset || a.seq - b.seq;
}

export class Timeline {
  items = [];
  #keys = new Set();

  /** Put an item at its place; returns false when it is there already. */
  add(item) {
    if (this.#keys.has(item.key)) return false;
    this.#keys.add(item.key);
    let place = this.items.length;
    while (place > 0 && compare(this.items[place - 1], item) > 0) place -= 1;
    this.items.splice(place, 0, item);
    if (this.items.length > KEPT) this.#trim();
    return true;
  }

  has(key) {
    return this.#keys.has(key);
  }

  replace(items) {
    this.items = [];
    this.#keys.clear();
    for (const item of items) this.add(item);
  }

  #trim() {
    for (const item of this.items.splice(0, TRIM)) this.#keys.delete(item.key);
  }
}
