// The rooms and conversations of this person, with the unread messages of each.

import { el, reconcile } from "../dom.js";
import { avatar, brief, count } from "../text.js";
import { address } from "../router.js";

const $ = (id) => document.getElementById(id);

export class SidebarView {
  #client;

  constructor({ client }) {
    this.#client = client;
    $("me-name").textContent = client.me;
    $("me-avatar").replaceChildren(avatar(client.me));
  }

  render(active) {
    const { rooms, conversations } = this.#client;
    reconcile($("rooms"), rooms.all.map((room) => this.#entry(room, active)));
    const newestFirst = [...conversations.all].sort((a, b) => lastTime(b) - lastTime(a));
    reconcile($("conversations"), newestFirst.map((thread) => this.#entry(thread, active)));
    $("no-conversations").hidden = newestFirst.length > 0;
    const elsewhere = this.#client.threads.some((thread) => thread !== active && thread.unread > 0);
    $("elsewhere").hidden = !elsewhere;
    const label = elsewhere ? "Rooms and conversations, some with unread messages" : "Rooms and conversations";
    $("sidebar-open").setAttribute("aria-label", label);
  }

  #entry(thread, active) {
    const isActive = thread === active;
    const { unread } = thread;
    const isPerson = thread.kind === "person";
    const isOnline = isPerson && this.#client.rooms.isOnline(thread.name);
    const stamp = `${isActive}|${brief(unread)}|${isOnline}`;
    return { key: thread.key, stamp, make: () => this.#draw(thread, { isActive, unread, isPerson, isOnline }) };
  }

  #draw(thread, { isActive, unread, isPerson, isOnline }) {
    const sign = isPerson ? avatar(thread.name) : el("span", { class: "room-sign", "aria-hidden": "true", text: "#" });
    if (isOnline) sign.classList.add("online");
    const link = el(
      "a",
      { href: address(thread), class: unread ? "entry-link unread" : "entry-link", "aria-current": isActive ? "page" : null },
      sign,
      el("span", { class: "label", text: thread.name }),
    );
    if (isOnline) link.append(el("span", { class: "sr", text: ", online" }));
    if (unread) {
      link.append(el("span", { class: "badge", "aria-hidden": "true", text: brief(unread) }));
      link.append(el("span", { class: "sr", text: `, ${count(unread, "unread message")}` }));
    }
    return el("li", {}, link);
  }
}

function lastTime(thread) {
  return thread.timeline.items.at(-1)?.time ?? Date.now();
}
