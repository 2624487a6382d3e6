// The two side panels. On a wide screen they stand beside the messages; on a narrow one they slide over them, take
// the focus, and give it back when Escape or a click beside them closes them.

const $ = (id) => document.getElementById(id);
const wideEnough = { sidebar: matchMedia("(min-width: 800px)"), people: matchMedia("(min-width: 1120px)") };

export class Drawers {
  #open = null;
  #opener = null;
  #showPeople = true;

  constructor() {
    $("sidebar-open").addEventListener("click", () => this.#toggle("sidebar"));
    $("people-open").addEventListener("click", () => this.#togglePeople());
    $("sidebar-close").addEventListener("click", () => this.close());
    $("people-close").addEventListener("click", () => this.#closePeople());
    $("shade").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#open && !document.querySelector("dialog[open]")) this.close();
    });
    for (const query of Object.values(wideEnough)) query.addEventListener("change", () => this.close());
    this.render();
  }

  /** People belong to rooms: a conversation has no such panel. */
  allowPeople(isRoom) {
    $("chat").classList.toggle("alone", !isRoom);
    if (!isRoom && this.#open === "people") this.close();
  }

  close({ giveBack = true } = {}) {
    if (!this.#open) return this.render();
    this.#open = null;
    this.render();
    if (giveBack) this.#opener?.focus();
  }

  #toggle(name) {
    if (this.#open === name) return this.close();
    this.#open = name;
    this.#opener = document.activeElement;
    this.render();
    const target = $(name).querySelector("[aria-current]") ?? $(name).querySelector("button:not([hidden]), a");
    target?.focus();
  }

  #togglePeople() {
    if (!wideEnough.people.matches) return this.#toggle("people");
    this.#showPeople = !this.#showPeople;
    this.render();
  }

  #closePeople() {
    if (!wideEnough.people.matches) return this.close();
    this.#showPeople = false;
    this.render();
    $("people-open").focus();
  }

  render() {
    const isOpen = (name) => this.#open === name;
    const standing = { sidebar: wideEnough.sidebar.matches, people: wideEnough.people.matches && this.#showPeople };
    for (const name of ["sidebar", "people"]) {
      const isShown = standing[name] || isOpen(name);
      $(name).classList.toggle("open", isOpen(name));
      $(name).inert = !isShown;
      $(`${name}-open`).setAttribute("aria-expanded", String(isShown));
    }
    $("chat").classList.toggle("with-people", standing.people);
    $("shade").hidden = !this.#open;
    $("thread").inert = this.#open !== null;
  }
}
