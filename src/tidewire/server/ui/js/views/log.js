// The messages of the thread in view. The DOM holds a window of some hundreds of rows; it moves when the person
// scrolls, and stays at the newest unless they scrolled up.

import { reconcile } from "../dom.js";
import { brief } from "../text.js";
import { row } from "./row.js";

const NEWEST = 160;
const MOST = 320;
const STEP = 100;
const NEAR = 400;
const BOTTOM = 40;

export class LogView {
  #scroller = document.getElementById("scroller");
  #list = document.getElementById("log");
  #newer = document.getElementById("newer");
  #options;
  #thread = null;
  #topKey = null;
  #to = 0;
  #total = 0;
  #stuck = true;
  #lastTop = 0;
  #changed;
  #earlier;

  /** `changed()` asks for a render; `options` has the needs of rows: `{me, actions, pending}`. */
  constructor({ changed, earlier, ...options }) {
    this.#changed = changed;
    this.#earlier = earlier;
    this.#options = options;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#newer.addEventListener("click", () => this.toNewest());
    const settle = new ResizeObserver(() => this.#stuck && this.#toBottom());
    settle.observe(this.#scroller);
    settle.observe(this.#list);
  }

  /** Does the person see the newest message? */
  get atNewest() {
    return this.#stuck;
  }

  /** Is there nothing above the visible rows? */
  get atOldest() {
    return this.#topKey === (this.#entries()[0]?.key ?? null);
  }

  /** Show the rows that have come above the visible ones. */
  above() {
    if (!this.#stuck && this.#scroller.scrollTop < NEAR) this.#move(-STEP);
  }

  show(thread) {
    this.#thread = thread;
    this.freshKey = thread.firstUnread?.key ?? null;
    this.toNewest();
  }

  toNewest() {
    this.#stuck = true;
    this.#topKey = null;
    this.#changed();
  }

  render() {
    const entries = this.#entries();
    this.#total = entries.length;
    const [from, to] = this.#window(entries);
    this.#to = to;
    this.#topKey = entries[from]?.key ?? null;
    const options = { ...this.#options, freshKey: this.freshKey };
    const rows = entries.slice(from, to).map((entry, index) => row(entry, entries[from + index - 1], options));
    // Two rooms have messages with the same offset, and a row must never be taken for another room's.
    for (const one of rows) one.key = `${this.#thread.key}/${one.key}`;
    const anchor = this.#stuck ? null : this.#anchor();
    reconcile(this.#list, rows);
    if (this.#stuck) this.#toBottom();
    else if (anchor?.node.isConnected) this.#scroller.scrollTop += anchor.node.offsetTop - anchor.top;
    this.#offerNewer();
  }

  #entries() {
    const { items } = this.#thread.timeline;
    const pending = this.#options.pending(this.#thread).filter((entry) => !this.#thread.timeline.has(entry.key));
    return pending.length ? [...items, ...pending] : items;
  }

  #window(entries) {
    if (this.#stuck) return [Math.max(0, entries.length - NEWEST), entries.length];
    const from = Math.max(0, entries.findIndex((entry) => entry.key === this.#topKey));
    return [from, Math.min(entries.length, from + MOST)];
  }

  #anchor() {
    const { scrollTop } = this.#scroller;
    const seen = [...this.#list.children].filter((node) => node.offsetTop + node.offsetHeight > scrollTop);
    // The first row is drawn anew when another comes above it.
    const node = seen[1] ?? seen[0];
    return node ? { node, top: node.offsetTop } : null;
  }

  #toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#lastTop = this.#scroller.scrollTop;
  }

  #scrolled() {
    if (!this.#thread) return;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < BOTTOM && this.#to === this.#total;
    const was = this.#stuck;
    if (isAtEnd) this.#stuck = true;
    else if (scrollTop < this.#lastTop - 1) this.#stuck = false;
    this.#lastTop = scrollTop;
    if (!this.#stuck && scrollTop < NEAR) this.#move(-STEP);
    if (!this.#stuck && scrollTop < NEAR && this.atOldest) this.#earlier(this.#thread);
    else if (!this.#stuck && this.#to < this.#total && scrollHeight - scrollTop - clientHeight < NEAR) this.#move(STEP);
    if (was !== this.#stuck) this.#changed();
  }

  #move(rows) {
    const entries = this.#entries();
    const from = entries.findIndex((entry) => entry.key === this.#topKey);
    const moved = Math.min(Math.max(0, from + rows), Math.max(0, entries.length - 1));
    if (moved === from) return;
    this.#topKey = entries[moved].key;
    this.#changed();
  }

  #offerNewer() {
    const { unread } = this.#thread;
    this.#newer.hidden = this.#stuck;
    const text = unread === 0 ? "To the newest" : `${brief(unread)} new ${unread === 1 ? "message" : "messages"}`;
    if (this.#newer.textContent !== text) this.#newer.textContent = text;
    this.#newer.classList.toggle("some", unread > 0);
  }
}
