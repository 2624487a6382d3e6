// One file that a pipeline wants: from this device, dropped or chosen, or one that the server has already.

import { el, icon } from "../../dom.js";
import { size } from "../words.js";
import { bar, setBar } from "./bar.js";
import { setText } from "./steps.js";

export class FileField {
  #input;
  #chosen;
  #file = null;
  #upload = null;
  #text = el("span", { class: "drop-text" });
  #problem;
  #picker;
  #server = null;
  #bar;

  /** `chosen(file)` is told of each file; `onServer` are the files that the server has. */
  constructor({ input, onServer, chosen }) {
    this.#input = input;
    this.#chosen = chosen;
    const ids = { file: `file-${input.name}`, problem: `file-${input.name}-problem`, server: `server-${input.name}` };
    this.#problem = el("p", { id: ids.problem, class: "problem" });
    this.#picker = el("input", { type: "file", id: ids.file, class: "sr", "aria-describedby": ids.problem });
    this.#picker.addEventListener("change", () => this.#picker.files[0] && this.take(this.#picker.files[0]));
    this.#bar = bar({ label: `Upload of ${input.title}`, value: 0, status: "running" });
    this.#bar.hidden = true;
    const title = `${input.title}${input.optional ? " (not required)" : ""}`;
    const drop = el("label", { class: "drop", for: ids.file }, icon("upload"), el("span", { class: "drop-title", text: title }), this.#text);
    this.node = el("div", { class: "field file" }, this.#picker, drop, this.#bar, this.#problem);
    this.#offer(onServer, ids.server);
    this.#show();
    for (const [name, isOver] of Object.entries({ dragenter: true, dragover: true, dragleave: false, drop: false })) {
      drop.addEventListener(name, () => drop.classList.toggle("over", isOver));
    }
  }

  get name() {
    return this.#input.name;
  }

  get hasFile() {
    return this.#file !== null;
  }

  get isEmpty() {
    return !this.#file && !this.#server?.value;
  }

  focus() {
    this.#picker.focus();
  }

  take(file) {
    this.#file = file;
    this.#upload = null;
    if (this.#server) this.#server.value = "";
    this.#show();
    if (this.check()) this.#chosen(file);
  }

  /** Show the problem of the chosen files; returns whether there is none. */
  check() {
    const { accept, optional } = this.#input;
    let problem = "";
    if (this.#file && !fits(this.#file.name, accept)) {
      problem = `${this.#file.name} is no such file: its name should end with ${accept.join(" or ")}.`;
    } else if (this.#file && this.#file.size === 0) {
      problem = `${this.#file.name} is empty.`;
    } else if (this.isEmpty && !optional && !this.#server) {
      problem = "Choose a file.";
    }
    setText(this.#problem, problem);
    return !problem;
  }

  /** The choice for the server: an upload (made by `send(file, told)`), a file that it has, or nothing. */
  async given(send) {
    if (!this.#file) return this.#server?.value ? { name: this.#server.value } : null;
    if (!this.#upload) {
      this.#bar.hidden = false;
      const told = (part) => {
        setBar(this.#bar, { value: Math.round(part * 100), status: "running" });
        setText(this.#text, `${this.#file.name}: ${size(part * this.#file.size)} of ${size(this.#file.size)} sent`);
      };
      try {
        this.#upload = await send(this.#file, told);
      } finally {
        this.#bar.hidden = true;
        this.#show();
      }
    }
    return { upload: this.#upload };
  }

  #offer(onServer, id) {
    const { accept } = this.#input;
    const fitting = onServer.filter(({ name, problem }) => !problem && fits(name, accept));
    if (!fitting.length) return;
    const options = fitting.map(({ name, size: bytes }) => el("option", { value: name, text: `${name} (${size(bytes)})` }));
    this.#server = el("select", { id }, el("option", { value: "", text: "found by the sample's name" }), ...options);
    this.#server.addEventListener("change", () => {
      this.#file = null;
      this.#picker.value = "";
      this.#show();
      this.check();
      if (this.#server.value) this.#chosen({ name: this.#server.value });
    });
    this.node.append(el("div", { class: "server-file" }, el("label", { class: "hint", for: id, text: "or a file on the server:" }), this.#server));
  }

  #show() {
    const { accept } = this.#input;
    const ask = `Drop a file here, or choose one${accept.length ? `: ${accept.join(", ")}` : ""}`;
    setText(this.#text, this.#file ? `${this.#file.name} · ${size(this.#file.size)}` : ask);
    this.node.classList.toggle("filled", this.hasFile);
  }
}

function fits(name, accept) {
  return accept.length === 0 || accept.some((end) => name.toLowerCase().endsWith(end.toLowerCase()));
}
