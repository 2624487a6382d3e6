// The people in the room in view. A click begins a private conversation.

import { el, reconcile } from "../dom.js";
import { address } from "../router.js";
import { avatar, count } from "../text.js";

const SHOWN = 150;
const FILTER_FROM = 12;
const $ = (id) => document.getElementById(id);

export class PeopleView {
  #me;
  #drawn = "";

  constructor({ me, changed }) {
    this.#me = me;
    $("people-filter").addEventListener("input", changed);
  }

  render(thread) {
    const isRoom = thread.kind === "room";
    const people = isRoom ? thread.people : [];
    $("people-open").hidden = !isRoom;
    $("people-open").setAttribute("aria-label", `People in this room: ${count(people.length, "person", "people")} online`);
    $("people-count").textContent = people.length || "";
    const filter = $("people-filter").value.trim().toLowerCase();
    $("people-filter").hidden = people.length < FILTER_FROM && !filter;
    const drawn = JSON.stringify([thread.key, filter, people]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const found = filter ? people.filter((name) => name.toLowerCase().includes(filter)) : people;
    reconcile($("online"), found.slice(0, SHOWN).map((name) => this.#person(name)));
    $("online-title").textContent = `Online${people.length ? ` · ${people.length}` : ""}`;
    this.#explain(found, people);
  }

  #explain(found, people) {
    const more = $("online-more");
    const hidden = found.length - SHOWN;
    more.hidden = hidden <= 0 && found.length > 0;
    if (hidden > 0) more.textContent = `And ${hidden} more. Filter by name to find somebody.`;
    else more.textContent = people.length ? "Nobody here has such a name." : "Nobody to be seen at the moment.";
  }

  #person(name) {
    const isMe = name === this.#me;
    const make = () => {
      const parts = [avatar(name), el("span", { class: "label", text: isMe ? `${name} (you)` : name })];
      if (isMe) return el("li", {}, el("span", { class: "person" }, ...parts));
      const link = { class: "person", href: address({ kind: "person", name }), title: `Write to ${name}` };
      return el("li", {}, el("a", link, ...parts));
    };
    return { key: name, stamp: "", make };
  }
}
