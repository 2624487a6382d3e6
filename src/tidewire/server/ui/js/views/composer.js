// Where messages are written. Enter sends, Shift+Enter begins a line; a draft stays with its thread.

const TALLEST = 200;
const $ = (id) => document.getElementById(id);

export class Composer {
  #thread = null;
  #write;

  /** `write(thread, text)` returns a text when the message cannot be accepted. */
  constructor({ write }) {
    this.#write = write;
    const field = $("writing");
    field.addEventListener("input", () => {
      this.#thread.draft = field.value;
      this.problem("");
      this.#fit();
    });
    field.addEventListener("keydown", (event) => {
      // While an input method composes, Enter chooses a word.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
      field.focus();
    });
  }

  show(thread) {
    this.#thread = thread;
    const label = thread.kind === "room" ? `Message to the room ${thread.name}` : `Private message to ${thread.name}`;
    $("writing-label").textContent = label;
    $("writing").placeholder = thread.kind === "room" ? `Message #${thread.name}` : `Message ${thread.name}`;
    this.problem("");
    this.#fill(thread.draft);
  }

  focus() {
    $("writing").focus();
  }

  /** Put a text that could not be sent back into the field. */
  edit(text) {
    this.#fill($("writing").value ? `${text}\n${$("writing").value}` : text);
    this.focus();
  }

  problem(text) {
    $("composer-problem").textContent = text;
  }

  #submit() {
    const text = $("writing").value;
    if (!text.trim()) return;
    const problem = this.#write(this.#thread, text, () => this.#fill(""));
    this.problem(problem ?? "");
  }

  #fill(text) {
    $("writing").value = text;
    this.#thread.draft = text;
    this.#fit();
  }

  #fit() {
    const field = $("writing");
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, TALLEST)}px`;
  }
}
