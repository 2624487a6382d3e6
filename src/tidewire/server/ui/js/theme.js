// Light or dark: the system's choice until the person makes one. A classic script in <head>, so that no page flashes.
(() => {
  const KEY = "tidewire:theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function current() {
    return root.dataset.theme || (system.matches ? "dark" : "light");
  }

  function label() {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.setAttribute("aria-label", current() === "dark" ? "Switch to the light theme" : "Switch to the dark theme");
    }
  }

  function apply(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    label();
  }

  apply(remembered());
  system.addEventListener("change", label);
  addEventListener("storage", (event) => {
    if (event.key === KEY) apply(event.newValue);
  });
  document.addEventListener("DOMContentLoaded", label);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const theme = current() === "dark" ? "light" : "dark";
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // A browser that forbids storage keeps the choice for this page only.
    }
  });
})();
