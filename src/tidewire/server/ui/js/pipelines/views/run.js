// One run: its facts, progress, actions, failure and results.

import { sentence } from "../../api.js";
import { el, reconcile } from "../../dom.js";
import { fullTime } from "../../text.js";
import { runLeft } from "../estimate.js";
import { canResume, duration, isActive, runState, size } from "../words.js";
import { bar, setBar } from "./bar.js";
import { StepsView, setText } from "./steps.js";

const $ = (id) => document.getElementById(id);

export class RunView {
  #api;
  #steps = new StepsView();
  #bar = bar({ label: "Progress of the run", value: 0, status: "queued" });
  #failed = "";

  /** `actions` has a function for each button: cancel, resume, again, remove. */
  constructor({ api, actions }) {
    this.#api = api;
    $("run-bar").replaceWith(this.#bar);
    for (const [name, action] of Object.entries(actions)) $(name).addEventListener("click", action);
  }

  render(run, { notice, problem, results }) {
    const now = this.#api.now();
    setText($("run-title"), run.sample);
    setText($("run-detail"), about(run));
    setText($("run-state"), runState(run));
    $("run-state").dataset.status = run.status;
    setText($("run-time"), times(run, now));
    setBar(this.#bar, { value: run.progress, status: run.status });
    this.#steps.render(run, now);
    $("cancel").hidden = !isActive(run);
    $("resume").hidden = !canResume(run);
    $("again").hidden = isActive(run);
    $("remove").hidden = isActive(run);
    $("run-notice").hidden = !notice;
    setText($("run-notice"), notice);
    setText($("run-problem"), problem);
    this.#renderFailure(run);
    this.#renderResults(run, results);
  }

  #renderFailure(run) {
    const step = run.steps.find(({ status }) => status === "failed");
    const stamp = JSON.stringify([run.id, run.status, run.error, step?.name, step?.error, step?.lines]);
    if (stamp === this.#failed) return;
    this.#failed = stamp;
    const isShown = run.status === "failed" || run.status === "interrupted" || (step && run.status !== "finished");
    $("failure").hidden = !isShown;
    if (!isShown) return;
    const head = run.status === "interrupted" ? "Interrupted" : step ? `Failed: ${step.title}` : "Failed";
    const why = run.status === "interrupted" ? sentence(run.error) : step?.error || run.error;
    const parts = [el("h2", { text: head }), el("p", { text: why })];
    if (step?.lines?.length) {
      parts.push(el("p", { class: "hint", text: "Its last lines:" }), el("pre", { tabindex: 0, text: step.lines.join("\n") }));
    }
    $("failure").replaceChildren(...parts);
  }

  #renderResults(run, results) {
    $("results-panel").hidden = !results?.length;
    const entries = (results ?? []).map((result) => ({
      key: `${run.id}/${result.name}`,
      stamp: `${result.size}|${result.modified}`,
      make: () => {
        const href = this.#api.resultAddress(run.id, result.name);
        const name = el("span", { class: "label", text: result.name });
        if (result.problem) return el("li", { class: "hint" }, name, ` ${result.problem}`);
        const link = { class: "result", href, download: result.name.split("/").pop() };
        const bytes = el("span", { class: "aside", text: size(result.size) });
        if (!result.show) return el("li", {}, el("a", link, name, bytes));
        const place = { class: "result", href: `${href}?show=1`, target: "_blank", rel: "noopener" };
        const open = el("a", { ...place, "aria-label": `Open ${result.name}` }, name, bytes);
        return el("li", { class: "shown" }, open, el("a", { ...link, class: "open", text: "Download" }));
      },
    }));
    reconcile($("results"), entries);
  }
}

function about(run) {
  const files = run.inputs.map(({ name, size: bytes }) => `${name} (${size(bytes)})`);
  return [run.title, fullTime(new Date(run.created * 1000)), ...files].join(" · ");
}

function times(run, now) {
  if (!run.started) return "";
  const elapsed = duration((run.ended ?? now) - run.started);
  if (run.status !== "running") return elapsed;
  const left = runLeft(run, now);
  return left === null || left < 1 ? elapsed : `${elapsed} · about ${duration(left)} left`;
}
