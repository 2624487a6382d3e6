// The form that starts a run: a pipeline, its files, a name for the sample.

import { Refusal } from "../../api.js";
import { el } from "../../dom.js";
import { FileField } from "./file.js";
import { setText } from "./steps.js";

const $ = (id) => document.getElementById(id);
const SAMPLE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export class StartForm {
  #api;
  #started;
  #pipelines = [];
  #onServer = [];
  #fields = [];
  #stop = null;
  #isOwnName = false;

  /** `started({run, joined})` is told when the server has taken it. */
  constructor({ api, started }) {
    this.#api = api;
    this.#started = started;
    $("pipeline").addEventListener("change", () => this.#choose());
    $("sample").addEventListener("input", () => {
      this.#isOwnName = $("sample").value !== "";
      this.#wrongSample("");
    });
    $("start-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    $("stop-upload").addEventListener("click", () => this.#stop?.abort());
    for (const name of ["dragover", "drop"]) $("new").addEventListener(name, (event) => this.#dragged(event));
    addEventListener("beforeunload", (event) => this.#stop && event.preventDefault());
  }

  /** Ask for the pipelines; throws a Refusal. */
  async load() {
    const { pipelines, default: first } = await this.#api.pipelines();
    this.#onServer = await this.#api.inputs();
    const before = $("pipeline").value || first;
    this.#pipelines = pipelines;
    $("pipeline").replaceChildren(...pipelines.map(({ name, title }) => el("option", { value: name, text: title })));
    if (pipelines.some(({ name }) => name === before)) $("pipeline").value = before;
    $("pipeline-field").classList.toggle("only", pipelines.length < 2);
    this.#choose();
  }

  /** Fill it in as for another run: same pipeline, same sample. */
  fill({ pipeline, sample }) {
    $("pipeline").value = pipeline;
    $("sample").value = sample;
    this.#isOwnName = true;
    this.#choose();
    $("anew").checked = true;
  }

  get #pipeline() {
    return this.#pipelines.find(({ name }) => name === $("pipeline").value);
  }

  #choose() {
    const pipeline = this.#pipeline;
    if (!pipeline) return;
    setText($("pipeline-text"), pipeline.description ?? "");
    const chosen = (file) => this.#suggest(file);
    this.#fields = pipeline.inputs.map((input) => new FileField({ input, onServer: this.#onServer, chosen }));
    $("inputs").replaceChildren(...this.#fields.map(({ node }) => node));
    this.#showMissing(pipeline.missing);
    setText($("start-problem"), "");
  }

  #showMissing(missing) {
    $("missing").hidden = missing.length === 0;
    $("start").disabled = missing.length > 0;
    if (!missing.length) return;
    const broken = missing.filter(({ problem }) => problem);
    if (broken.length) {
      $("missing").replaceChildren(
        el("p", {}, el("strong", { text: "The server cannot start a program of it:" })),
        ...broken.map(({ step, problem }) => el("p", { text: `${step}: ${problem}` })),
      );
      return;
    }
    const packages = [...new Set(missing.map((one) => one.package))];
    const names = [...new Set(missing.map(({ program }) => program))];
    $("missing").replaceChildren(
      el("p", {}, el("strong", { text: `Not installed on the server: ${names.join(", ")}.` })),
      el("p", { text: "Its operator can mend that:" }),
      el("code", { text: `apt-get install ${packages.join(" ")}` }),
    );
  }

  #suggest(file) {
    if (this.#isOwnName) return;
    const ends = this.#pipeline.inputs.flatMap(({ accept }) => accept).sort((a, b) => b.length - a.length);
    const end = ends.find((one) => file.name.toLowerCase().endsWith(one.toLowerCase())) ?? "";
    let name = file.name.slice(0, file.name.length - end.length);
    if (this.#fields.length > 1) name = name.replace(/[._-]?R?[12](_001)?$/i, "");
    name = name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
    if (name) $("sample").value = name;
    this.#wrongSample("");
  }

  // Files dropped anywhere on the form: in the order of their names to the fields, so that R1 comes before R2.
  #dragged(event) {
    event.preventDefault();
    if (event.type !== "drop" || this.#stop) return;
    const files = [...event.dataTransfer.files].sort((a, b) => (a.name < b.name ? -1 : 1));
    const aimed = this.#fields.find(({ node }) => node.contains(event.target));
    if (files.length === 1) {
      (aimed ?? this.#fields.find((field) => field.isEmpty) ?? this.#fields[0])?.take(files[0]);
      return;
    }
    for (const [place, file] of files.slice(0, this.#fields.length).entries()) this.#fields[place].take(file);
  }

  #wrongSample(problem) {
    setText($("sample-problem"), problem);
    if (problem) $("sample").setAttribute("aria-invalid", "true");
    else $("sample").removeAttribute("aria-invalid");
  }

  #isWrong() {
    const sample = $("sample").value.trim();
    const first = this.#fields.filter((field) => !field.check())[0];
    const says = sample ? "This name cannot be used: begin with a letter or digit, and use only letters, digits, . _ -" : "Give the sample a name.";
    this.#wrongSample(SAMPLE.test(sample) ? "" : says);
    if (first) first.focus();
    else if (!SAMPLE.test(sample)) $("sample").focus();
    return Boolean(first) || !SAMPLE.test(sample);
  }

  async #submit() {
    if (this.#stop || this.#isWrong()) return;
    setText($("start-problem"), "");
    this.#stop = new AbortController();
    this.#busy(true);
    try {
      this.#started(await this.#send(this.#stop.signal));
      $("sample").value = "";
      $("anew").checked = false;
      this.#isOwnName = false;
      this.#choose();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      setText($("start-problem"), error.message);
    } finally {
      this.#stop = null;
      this.#busy(false);
    }
  }

  async #send(signal) {
    const inputs = {};
    for (const field of this.#fields) {
      const given = await field.given((file, told) => this.#api.upload(file, { told, signal }));
      if (given) inputs[field.name] = given;
    }
    const body = { pipeline: this.#pipeline.name, sample: $("sample").value.trim(), inputs, new: $("anew").checked };
    return this.#api.start(body);
  }

  #busy(isBusy) {
    for (const node of $("start-form").querySelectorAll("input, select, #start")) node.disabled = isBusy;
    $("stop-upload").hidden = !isBusy || !this.#fields.some(({ hasFile }) => hasFile);
    if (!isBusy) this.#showMissing(this.#pipeline.missing);
  }
}
