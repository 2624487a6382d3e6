"""What a program can tell of how a page looks and reads: names, references, contrast, sizes."""

from __future__ import annotations

from playwright.sync_api import Page

__all__ = ("SMALL", "check")

#: Every control that can be seen, without a name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, textarea, dialog, nav, aside, [role]")]
  .filter((node) => node.checkVisibility() && !node.closest("[inert]"))
  .filter((node) => {
    const labels = [...(node.labels ?? [])].map((label) => label.textContent).join("");
    const ids = (node.getAttribute("aria-labelledby") ?? "").split(" ");
    const by = ids.map((id) => document.getElementById(id)?.textContent);
    const own = node.matches("input, textarea") ? "" : node.textContent;
    return !(node.getAttribute("aria-label") ?? by.join("") ?? "").trim() && !(labels + own + by.join("")).trim();
  })
  .map((node) => node.outerHTML.slice(0, 120))"""

#: Ids that stand twice, and references to ids that stand nowhere.
REFERENCES = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const wanted = ["aria-labelledby", "aria-describedby", "aria-controls", "for"].flatMap((name) =>
    [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(" ")));
  return [...ids.filter((id, place) => ids.indexOf(id) !== place), ...wanted.filter((id) => !ids.includes(id))];
}"""

#: Controls that are smaller than a finger.
SMALL = """() => [...document.querySelectorAll(
    "button, select, .button, .drop, .result, .entry-link, .person, .check, input:not([type=checkbox], .sr)")]
  .filter((node) => node.checkVisibility() && !node.closest("[inert]"))
  .map((node) => [node.id || node.className, node.getBoundingClientRect()])
  .filter(([, box]) => box.height > 0 && Math.round(Math.min(box.height, box.width) * 100) < 4400)
  .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""

#: Texts whose contrast with what is behind them is under 4.5 (WCAG AA).
FAINT = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    paper.clearRect(0, 0, 1, 1);
    paper.fillStyle = color;
    paper.fillRect(0, 0, 1, 1);
    return [...paper.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest(".sr, [inert], noscript")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.add(`${contrast.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return [...found];
}"""


def check(page: Page) -> None:
    """Names, references and contrast of the page as it is now."""
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(REFERENCES) == []
    assert page.evaluate(FAINT) == []
