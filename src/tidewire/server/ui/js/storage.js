// JSON values under a prefix of localStorage or sessionStorage. A browser that forbids storage gets a plain Map:
// the page works, and forgets on reload.

class MemoryArea {
  #values = new Map();
  getItem = (key) => this.#values.get(key) ?? null;
  setItem = (key, value) => void this.#values.set(key, value);
  removeItem = (key) => void this.#values.delete(key);
  key = (index) => [...this.#values.keys()][index] ?? null;
  get length() {
    return this.#values.size;
  }
}

const memory = new MemoryArea();

function area(name) {
  try {
    const found = globalThis[name];
    found.setItem("tidewire:probe", "1");
    found.removeItem("tidewire:probe");
    return found;
  } catch {
    return memory;
  }
}

export const lasting = area("localStorage");
export const passing = area("sessionStorage");

export class Box {
  #area;
  #prefix;
  #retired = false;

  constructor(storageArea, prefix) {
    this.#area = storageArea;
    this.#prefix = prefix;
  }

  get(key, fallback = null) {
    try {
      const text = this.#area.getItem(this.#prefix + key);
      return text === null ? fallback : JSON.parse(text);
    } catch {
      return fallback;
    }
  }

  /** Keep a value; returns false when the storage is full or the box retired. */
  set(key, value) {
    if (this.#retired) return false;
    try {
      this.#area.setItem(this.#prefix + key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  remove(key) {
    this.#area.removeItem(this.#prefix + key);
  }

  /** The keys that begin with `start`, without the prefix of the box. */
  keys(start = "") {
    const found = [];
    for (let index = 0; index < this.#area.length; index += 1) {
      const key = this.#area.key(index);
      if (key.startsWith(this.#prefix + start)) found.push(key.slice(this.#prefix.length));
    }
    return found;
  }

  /** Remove everything, and keep nothing more, even from requests that are still in flight. */
  retire() {
    this.#retired = true;
    for (const key of this.keys()) this.remove(key);
  }

  /** Call `listener(key, value)` when another tab changes a value; `value` is null when it removed it. */
  watch(listener) {
    addEventListener("storage", (event) => {
      if (event.storageArea !== this.#area || !event.key?.startsWith(this.#prefix)) return;
      listener(event.key.slice(this.#prefix.length), event.newValue === null ? null : JSON.parse(event.newValue));
    });
  }
}
