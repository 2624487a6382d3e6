// One line and one bar for each step of a run.

import { el } from "../../dom.js";
import { stepLeft } from "../estimate.js";
import { duration, stepState } from "../words.js";
import { bar, setBar } from "./bar.js";

export class StepsView {
  #list = document.getElementById("steps");
  #lines = new Map();
  #run = null;

  render(run, now) {
    if (run.id !== this.#run) {
      this.#run = run.id;
      this.#lines = new Map(run.steps.map((step) => [step.name, makeLine(step)]));
      this.#list.replaceChildren(...[...this.#lines.values()].map(({ node }) => node));
    }
    for (const step of run.steps) update(this.#lines.get(step.name), step, now);
  }
}

function makeLine(step) {
  const parts = {
    state: el("span", { class: "chip" }),
    time: el("span", { class: "times" }),
    bar: bar({ label: `Progress of ${step.title}`, value: 0, status: step.status }),
    message: el("p", { class: "step-message" }),
  };
  const head = el("div", { class: "step-head" }, el("span", { class: "step-title", text: step.title }), parts.time, parts.state);
  return { ...parts, node: el("li", { class: "step" }, head, parts.bar, parts.message) };
}

function update(line, step, now) {
  line.node.dataset.status = step.status;
  line.state.dataset.status = step.status;
  setText(line.state, step.status === "running" ? `${step.progress}%` : stepState(step));
  setText(line.time, times(step, now));
  setBar(line.bar, { value: step.progress, status: step.status });
  // Why it failed stands above all steps, with its last lines.
  setText(line.message, step.status === "failed" ? "" : step.message);
}

function times(step, now) {
  if (step.status === "waiting") return !step.expected || step.expected < 1 ? "" : `about ${duration(step.expected)}`;
  if (!step.started) return "";
  const elapsed = duration((step.ended ?? now) - step.started);
  if (step.status !== "running") return elapsed;
  const left = stepLeft(step, now);
  return left === null || left < 1 ? elapsed : `${elapsed} · about ${duration(left)} left`;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
