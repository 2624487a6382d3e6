// Tables whose rows the server searches and cuts: a page of them is all that is ever here.

import { el } from "../dom.js";
import { number } from "./words.js";

const SIZE = 50;

/** Fill a table: `columns` are `[title, cell of a row, class]`; a cell is a text or a node. */
export function fill(table, columns, rows, empty) {
  const head = el("tr", {}, ...columns.map(([title, , kind]) => el("th", { scope: "col", class: kind, text: title })));
  const cells = (row) => columns.map(([title, cell, kind]) => {
    const shown = cell(row);
    const named = { class: kind, "data-title": title };
    return shown instanceof Node ? el("td", named, shown) : el("td", { ...named, text: shown });
  });
  const body = rows.length
    ? rows.map((row) => el("tr", {}, ...cells(row)))
    : [el("tr", {}, el("td", { class: "empty", colspan: columns.length, text: empty }))];
  table.replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
}

/** A searched and paged list: `load(search, limit, offset)` returns `{total, rows}`. */
export class List {
  #offset = 0;
  #turn = 0;
  #total = 0;

  constructor(section, load, show) {
    this.load = load;
    this.show = show;
    this.search = section.querySelector("input[type=search]");
    this.pager = section.querySelector(".pager");
    let timer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#go(0), 200);
    });
    this.search.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go(0);
    });
    const step = (text, by) => el("button", { type: "button", class: "quiet", text, on: { click: () => this.#go(this.#offset + by) } });
    this.before = step("Earlier", -SIZE);
    this.after = step("Later", SIZE);
    this.place = el("span");
    this.pager.append(this.before, this.place, this.after);
  }

  #go(offset) {
    this.#offset = Math.max(0, offset);
    this.refresh().catch(() => {});
  }

  async refresh() {
    const turn = ++this.#turn;
    const { total, rows } = await this.load(this.search.value.trim(), SIZE, this.#offset);
    if (turn !== this.#turn) return;
    this.#total = total;
    this.show(rows);
    const last = this.#offset + rows.length;
    this.place.textContent = total ? `${number(this.#offset + 1)} to ${number(last)} of ${number(total)}` : "";
    this.before.disabled = this.#offset === 0;
    this.after.disabled = last >= this.#total;
    this.pager.hidden = total <= SIZE && this.#offset === 0;
  }
}
