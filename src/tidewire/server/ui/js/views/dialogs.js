// The dialogs: find or create a room, write to a person.

import { personProblem } from "../conversations.js";
import { el, reconcile } from "../dom.js";
import { nameProblem } from "../rooms.js";
import { count } from "../text.js";

const LISTED = 200;
const $ = (id) => document.getElementById(id);

function closable(dialog) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** Show the problem of a field, or nothing; returns whether there is one. */
function isWrong(field, place, problem) {
  place.textContent = problem;
  if (problem) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
  if (problem) field.focus();
  return Boolean(problem);
}

export class RoomDialog {
  #dialog = $("room-dialog");
  #name = $("room-name");
  #rooms;
  #go;

  constructor({ rooms, go }) {
    this.#rooms = rooms;
    this.#go = go;
    closable(this.#dialog);
    rooms.on("directory", () => this.#dialog.open && this.#render());
    this.#name.addEventListener("input", () => {
      isWrong(this.#name, $("room-error"), "");
      this.#render();
    });
    $("room-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#choose(this.#name.value.trim());
    });
  }

  open() {
    this.#name.value = "";
    isWrong(this.#name, $("room-error"), "");
    if (!this.#rooms.askDirectory()) this.#rooms.directory = null;
    this.#render();
    this.#dialog.showModal();
    this.#name.focus();
  }

  #choose(name) {
    if (isWrong(this.#name, $("room-error"), nameProblem(name))) return;
    this.#dialog.close();
    this.#go({ kind: "room", name });
  }

  #render() {
    const { directory } = this.#rooms;
    const typed = this.#name.value.trim();
    const all = directory ?? [];
    const found = all.filter(({ name }) => name.toLowerCase().includes(typed.toLowerCase()));
    const isNew = directory && typed && !nameProblem(typed) && !all.some(({ name }) => name === typed);
    $("room-go").textContent = isNew ? "Create" : "Join";
    reconcile($("directory"), found.slice(0, LISTED).map((entry) => this.#entry(entry)));
    if (!directory) $("directory-state").textContent = "The list comes when the page is connected.";
    else $("directory-state").textContent = found.length ? "" : "No such room yet: you can create it.";
  }

  #entry({ name, online }) {
    const people = online ? `${online} online` : "nobody online";
    const aside = this.#rooms.get(name) ? `${people} · joined` : people;
    const make = () => {
      const sign = el("span", { class: "room-sign", "aria-hidden": "true", text: "#" });
      const label = el("span", { class: "label", text: name });
      const button = { type: "button", class: "entry-link", on: { click: () => this.#choose(name) } };
      return el("li", {}, el("button", button, sign, label, el("span", { class: "aside", text: aside })));
    };
    return { key: name, stamp: aside, make };
  }
}

export class PersonDialog {
  #dialog = $("person-dialog");
  #name = $("person-name");

  constructor({ me, go }) {
    closable(this.#dialog);
    $("person-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = this.#name.value.trim();
      const problem = name === me ? "That is you. Write to somebody else." : personProblem(name);
      if (isWrong(this.#name, $("person-error"), problem)) return;
      this.#dialog.close();
      go({ kind: "person", name });
    });
  }

  open() {
    this.#name.value = "";
    isWrong(this.#name, $("person-error"), "");
    this.#dialog.showModal();
    this.#name.focus();
  }
}

export const unsentQuestion = (number, what) => `${count(number, "message is", "messages are")} not sent yet. ${what}`;
