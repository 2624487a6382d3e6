// The words of a screen reader about new messages: the words of a few; of many the number, and the words of the last.

import { count } from "../text.js";

const PAUSE = 800;
const SPOKEN = 3;
const LONGEST = 200;

export class Announcer {
  #region = document.getElementById("said");
  #waiting = [];
  #timer = 0;

  say(text) {
    this.#waiting.push(text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
    this.#timer ||= setTimeout(() => this.#speak(), PAUSE);
  }

  #speak() {
    this.#timer = 0;
    const texts = this.#waiting.splice(0);
    const spoken = texts.length > SPOKEN ? [count(texts.length, "new message"), texts.at(-1)] : texts;
    this.#region.replaceChildren(...spoken.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
  }
}
