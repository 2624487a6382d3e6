// The list of runs, the newest first.

import { el, reconcile } from "../../dom.js";
import { timeOfDay } from "../../text.js";
import { runLeft } from "../estimate.js";
import { duration, roughly, runState } from "../words.js";
import { bar, setBar } from "./bar.js";

const $ = (id) => document.getElementById(id);
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export class RunList {
  #api;

  /** `more()` asks for older runs. */
  constructor({ api, more }) {
    this.#api = api;
    $("more-runs").addEventListener("click", more);
  }

  render({ runs, hasMore, selected, problem }) {
    reconcile($("runs"), (runs ?? []).map((run) => this.#entry(run, run.id === selected)));
    (runs ?? []).forEach((run, place) => this.#refresh($("runs").children[place], run));
    $("no-runs").hidden = runs === null || runs.length > 0;
    $("more-runs").hidden = !hasMore;
    if ($("runs-problem").textContent !== problem) $("runs-problem").textContent = problem;
  }

  #entry(run, isSelected) {
    const stamp = [run.status, run.position, isSelected].join("|");
    const make = () => {
      const link = { class: "run-link", href: `#/run/${run.id}`, "aria-current": isSelected ? "page" : null };
      const parts = [
        el("span", { class: "run-sample", text: run.sample }),
        el("span", { class: "chip", "data-status": run.status, text: runState(run) }),
        el("span", { class: "run-about" }),
      ];
      if (run.status === "running") parts.push(bar({ label: `Progress of ${run.sample}`, value: run.progress, status: run.status }));
      return el("li", {}, el("a", link, ...parts));
    };
    return { key: run.id, stamp, make };
  }

  // Texts that change all the time change in place: a link that is made anew under a finger does not open.
  #refresh(node, run) {
    const about = node.querySelector(".run-about");
    const text = `${run.title} · ${this.#when(run)}`;
    if (about.textContent !== text) about.textContent = text;
    const progress = node.querySelector(".progress");
    if (progress) setBar(progress, { value: run.progress, status: run.status });
  }

  #when(run) {
    const now = this.#api.now();
    if (run.status === "running") {
      const left = runLeft(run, now);
      return `for ${roughly(now - run.started)}${left === null ? "" : `, ${roughly(left)} left`}`;
    }
    const at = new Date((run.ended ?? run.created) * 1000);
    const isToday = at.toDateString() === new Date(now * 1000).toDateString();
    const took = run.started && run.ended ? `, ${duration(run.ended - run.started)}` : "";
    return `${isToday ? timeOfDay(at) : day.format(at)}${took}`;
  }
}
