// Where the on-screen keyboard lies over the page instead of making it smaller, the chat is made as high as what can
// be seen, so that the field stays above the keyboard and the head of the room at the top.

const PINCHED = 1.05;

export function keepAboveKeyboard(node) {
  const view = globalThis.visualViewport;
  if (!view) return;
  const fit = () => {
    const isCovered = view.scale < PINCHED && innerHeight - view.height > 60;
    node.style.height = isCovered ? `${view.height}px` : "";
    node.style.top = isCovered ? `${view.offsetTop}px` : "";
    node.style.bottom = isCovered ? "auto" : "";
  };
  view.addEventListener("resize", fit);
  view.addEventListener("scroll", fit);
}
