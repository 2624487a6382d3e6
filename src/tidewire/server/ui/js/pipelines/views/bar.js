// A bar of progress that a screen reader can read.

import { el } from "../../dom.js";

export function bar({ label, value, status }) {
  const node = el("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 });
  node.append(el("div", { class: "progress-done" }));
  setBar(node, { value, status });
  return node;
}

/** Show another value in a bar that is there already, so that it moves instead of jumping. */
export function setBar(node, { value, status }) {
  node.dataset.status = status;
  node.setAttribute("aria-valuenow", value);
  node.firstElementChild.style.width = `${value}%`;
}
