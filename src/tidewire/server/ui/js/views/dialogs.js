// The dialogs: find or create a room, write to a person, and one question.

import { personProblem } from "../conversations.js";
import { el, reconcile } from "../dom.js";
import { nameProblem } from "../rooms.js";
import { count } from "../text.js";

const $ = (id) => document.getElementById(id);

function opened(dialog) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** Sets up the room dialog; returns what opens it. */
export function roomDialog({ rooms, go }) {
  const dialog = $("room-dialog");
  opened(dialog);

  function choose(name) {
    const problem = nameProblem(name);
    $("room-error").textContent = problem;
    $("room-name").toggleAttribute("aria-invalid", Boolean(problem));
    if (problem) return $("room-name").focus();
    dialog.close();
    go({ kind: "room", name });
  }

  function render() {
    const typed = $("room-name").value.trim();
    const all = rooms.directory ?? [];
    const found = typed ? all.filter(({ name }) => name.toLowerCase().includes(typed.toLowerCase())) : all;
    const isNew = typed && rooms.directory && !all.some(({ name }) => name === typed);
    $("room-go").textContent = isNew && !nameProblem(typed) ? "Create" : "Join";
    reconcile($("directory"), found.slice(0, 200).map(entry));
    if (!rooms.directory) $("directory-state").textContent = "The list comes when the page is connected.";
    else $("directory-state").textContent = found.length ? "" : "No such room yet: you can create it.";
  }

  function entry({ name, online }) {
    const isJoined = Boolean(rooms.get(name));
    const make = () => {
      const people = online ? `${online} online` : "nobody online";
      const parts = [
        el("span", { class: "room-sign", "aria-hidden": "true", text: "#" }),
        el("span", { class: "label", text: name }),
        el("span", { class: "aside", text: isJoined ? `${people} · joined` : people }),
      ];
      return el("li", {}, el("button", { type: "button", class: "entry-link", on: { click: () => choose(name) } }, ...parts));
    };
    return { key: name, stamp: `${online}|${isJoined}`, make };
  }

  rooms.on("directory", () => dialog.open && render());
  $("room-name").addEventListener("input", () => {
    $("room-error").textContent = "";
    render();
  });
  $("room-form").addEventListener("submit", (event) => {
    event.preventDefault();
    choose($("room-name").value.trim());
  });
  return () => {
    $("room-name").value = "";
    $("room-error").textContent = "";
    if (!rooms.askDirectory()) rooms.directory = null;
    render();
    dialog.showModal();
    $("room-name").focus();
  };
}

/** Sets up the person dialog; returns what opens it. */
export function personDialog({ me, go }) {
  const dialog = $("person-dialog");
  opened(dialog);
  $("person-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("person-name").value.trim();
    const problem = name === me ? "That is you. Write to somebody else." : personProblem(name);
    $("person-error").textContent = problem;
    if (problem) return $("person-name").focus();
    dialog.close();
    go({ kind: "person", name });
  });
  return () => {
    $("person-name").value = "";
    $("person-error").textContent = "";
    dialog.showModal();
    $("person-name").focus();
  };
}

/** Ask one question; resolves to whether the answer was yes. */
export function ask(text, yes) {
  const dialog = $("confirm-dialog");
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    $("confirm-yes").onclick = () => dialog.close("yes");
    $("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

export const unsentQuestion = (number, what) =>
  `${count(number, "message is", "messages are")} not sent yet. ${what}`;
