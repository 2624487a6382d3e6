// Small charts of the last two minutes; each keeps so many points, however long the page is open.

import { el } from "../dom.js";
import { number } from "./words.js";

const POINTS = 120;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  #points = [];
  #value = el("b");
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "polygon");

  constructor(title) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.#area, this.#line);
    this.node = el("figure", { class: "chart" }, el("figcaption", {}, el("span", { text: title }), this.#value), svg);
  }

  add(value) {
    this.#points.push(value);
    if (this.#points.length > POINTS) this.#points.shift();
    this.#value.textContent = number(value);
    const top = Math.max(1, ...this.#points) * 1.08;
    const start = POINTS - this.#points.length;
    const line = this.#points.map((one, index) => `${start + index},${(100 - (one / top) * 100).toFixed(1)}`);
    this.#line.setAttribute("points", line.join(" "));
    this.#area.setAttribute("points", `${start},100 ${line.join(" ")} ${POINTS - 1},100`);
  }
}
