// The log of a step: it stays at the end unless the person reads further up, and it can be searched.

import { coalesce, el } from "../../dom.js";
import { count } from "../../text.js";
import { setText } from "./steps.js";

const $ = (id) => document.getElementById(id);
const NEAR_END = 40;
const MOST_MATCHES = 2_000;
const COLOURS = /\u001b\[[0-9;?]*[A-Za-z]/g;

export class LogView {
  #box = $("log-box");
  #text = $("log-text");
  #open;
  #log = null;
  #off = [];
  #nodes = new Map();
  #isAtEnd = true;
  #matches = [];
  #at = -1;
  #searched = coalesce(() => this.#search());

  /** `open(step)` returns the StepLog of a step; "" is the one that began last. */
  constructor({ open }) {
    this.#open = open;
    $("log-step").addEventListener("change", () => this.show(this.#open($("log-step").value)));
    $("stay").addEventListener("click", () => this.#stay(!this.#isAtEnd));
    $("earlier").addEventListener("click", () => this.#log.earlier());
    $("search").addEventListener("input", () => {
      this.#at = -1;
      this.#searched();
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.#go(event.shiftKey ? -1 : 1);
    });
    $("match-before").addEventListener("click", () => this.#go(-1));
    $("match-after").addEventListener("click", () => this.#go(1));
    this.#box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#isAtEnd && this.#toEnd()).observe(this.#box);
  }

  /** Offer the logs of the steps that have begun. */
  offer(run) {
    const begun = run.steps.filter(({ started }) => started);
    const stamp = `${run.id}:${begun.map(({ name }) => name)}`;
    if ($("log-step").dataset.stamp === stamp) return;
    const before = $("log-step").dataset.stamp?.startsWith(`${run.id}:`) ? $("log-step").value : "";
    $("log-step").dataset.stamp = stamp;
    const options = begun.map(({ name, title }) => el("option", { value: name, text: title }));
    $("log-step").replaceChildren(el("option", { value: "", text: "Newest step" }), ...options);
    $("log-step").value = before;
  }

  get chosen() {
    return $("log-step").value;
  }

  show(log) {
    if (log === this.#log) return;
    for (const off of this.#off) off();
    this.#log = log;
    this.#off = log
      ? [
          log.on("reset", () => this.#fill()),
          log.on("append", (block) => this.#append(block)),
          log.on("earlier", (block) => this.#prepend(block)),
          log.on("forget", (block) => this.#forget(block)),
        ]
      : [];
    this.#fill();
    this.#stay(true);
  }

  #fill() {
    this.#nodes = new Map();
    this.#text.replaceChildren(...(this.#log?.blocks ?? []).map((block) => this.#node(block)));
    this.#changed();
  }

  #append(block) {
    this.#text.append(this.#node(block));
    this.#changed();
  }

  #prepend(block) {
    const { scrollHeight, scrollTop } = this.#box;
    this.#text.prepend(this.#node(block));
    this.#changed();
    this.#box.scrollTop = scrollTop + this.#box.scrollHeight - scrollHeight;
  }

  #forget(block) {
    this.#nodes.get(block)?.remove();
    this.#nodes.delete(block);
    this.#changed();
  }

  #node(block) {
    const node = document.createTextNode(printable(block.text));
    this.#nodes.set(block, node);
    return node;
  }

  #changed() {
    $("log-empty").hidden = this.#nodes.size > 0;
    $("earlier").hidden = !this.#log || this.#log.start === 0;
    if (this.#isAtEnd) this.#toEnd();
    if ($("search").value) this.#searched();
  }

  #stay(isAtEnd) {
    this.#isAtEnd = isAtEnd;
    $("stay").setAttribute("aria-pressed", isAtEnd);
    if (isAtEnd) this.#toEnd();
  }

  #toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (isAtEnd !== this.#isAtEnd) {
      this.#isAtEnd = isAtEnd;
      $("stay").setAttribute("aria-pressed", isAtEnd);
    }
  }

  #search() {
    const wanted = $("search").value.toLowerCase();
    this.#matches = wanted ? found(this.#text, wanted) : [];
    if (this.#at >= this.#matches.length) this.#at = -1;
    const more = this.#matches.length === MOST_MATCHES ? " or more" : "";
    setText($("matches"), wanted ? `${count(this.#matches.length, "match", "matches")}${more}` : "");
    $("match-before").disabled = $("match-after").disabled = this.#matches.length === 0;
    this.#mark();
  }

  #mark() {
    if (!globalThis.Highlight) return;
    CSS.highlights.set("found", new Highlight(...this.#matches));
    CSS.highlights.set("found-at", new Highlight(...this.#matches.slice(this.#at, this.#at + 1).filter(() => this.#at >= 0)));
  }

  #go(way) {
    if (!this.#matches.length) return;
    const { length } = this.#matches;
    this.#at = this.#at < 0 ? (way > 0 ? 0 : length - 1) : (this.#at + way + length) % length;
    this.#stay(false);
    const match = this.#matches[this.#at].getBoundingClientRect();
    const box = this.#box.getBoundingClientRect();
    this.#box.scrollTop += match.top - box.top - box.height / 2;
    setText($("matches"), `${this.#at + 1} of ${length}`);
    this.#mark();
  }
}

// The text as a terminal would show it: no colours, and of a line that was written over and over, its last form.
function printable(text) {
  return text.replace(COLOURS, "").replace(/\r\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "").replace(/\r/g, "");
}

function found(parent, wanted) {
  const ranges = [];
  for (const node of parent.childNodes) {
    const text = node.data.toLowerCase();
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
      if (ranges.length === MOST_MATCHES) return ranges;
    }
  }
  return ranges;
}
