// The few helpers that the views share. Text is only ever put in as text.

/** Make an element; `on` holds listeners, `text` its text, and everything else becomes an attribute. */
export function el(tag, { on = {}, text, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  if (text !== undefined) node.textContent = text;
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children);
  return node;
}

const reconciled = new WeakMap();
const SVG = "http://www.w3.org/2000/svg";

// Beside this module, wherever an application has mounted it.
const ICONS = new URL("../icons.svg", import.meta.url).pathname;

/** One of the drawings in icons.svg. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/**
 * Give `parent` the children of `wanted`: `[{key, stamp, make}]`. A child whose key and stamp are the same
 * stays (with its focus); a changed stamp makes it anew.
 */
export function reconcile(parent, wanted) {
  const nodes = reconciled.get(parent) ?? new Map();
  reconciled.set(parent, nodes);
  const keys = new Set(wanted.map(({ key }) => key));
  for (const [key, { node }] of nodes) {
    if (keys.has(key)) continue;
    node.remove();
    nodes.delete(key);
  }
  let next = parent.firstElementChild;
  for (const { key, stamp, make } of wanted) {
    const known = nodes.get(key);
    if (known?.stamp === stamp) {
      if (known.node === next) next = next.nextElementSibling;
      else parent.insertBefore(known.node, next);
      continue;
    }
    const node = make();
    nodes.set(key, { node, stamp });
    if (known) {
      if (known.node === next) next = next.nextElementSibling;
      const focused = known.node.contains(document.activeElement);
      known.node.remove();
      parent.insertBefore(node, next);
      if (focused) (node.matches("button, a") ? node : node.querySelector("button, a"))?.focus();
    } else {
      parent.insertBefore(node, next);
    }
  }
}

/** Run `work` once at the next frame, however often it is asked for; in a hidden page, which has no frames, by a timer. */
export function coalesce(work) {
  let planned = false;
  let timer = 0;
  const run = () => {
    if (!planned) return;
    planned = false;
    clearTimeout(timer);
    work();
  };
  return () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(run);
    timer = setTimeout(run, 250);
  };
}
