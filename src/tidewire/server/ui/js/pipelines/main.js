// The page of pipelines: the run in view, and the views drawn from the server's events.
//
// Addresses: #/new, #/runs (a phone's list), #/run/ID. The back button works, and a link to a run.

import { Refusal } from "../api.js";
import { coalesce } from "../dom.js";
import { load, presentByCookie, watchSignOut } from "../session.js";
import { Announcer } from "../views/announcer.js";
import { ask } from "../views/ask.js";
import { StatusView } from "../views/status.js";
import { PipelinesApi } from "./api.js";
import { Notices } from "./notices.js";
import { Runs } from "./runs.js";
import { StepLog } from "./steplog.js";
import { LogView } from "./views/log.js";
import { RunList } from "./views/list.js";
import { RunView } from "./views/run.js";
import { StartForm } from "./views/form.js";
import { WatchedRun } from "./watched.js";
import { isActive, runState } from "./words.js";

const $ = (id) => document.getElementById(id);
const SECOND = 1_000;
const isNarrow = matchMedia("(max-width: 799px)");

class Page {
  #api;
  #watched;
  #runs;
  #logs = new Map();
  #results = null;
  #notice = "";
  #problem = "";
  #selected = null;
  #announcer = new Announcer();
  #changed = coalesce(() => this.#render());

  constructor(session) {
    this.#api = new PipelinesApi(session?.token);
    this.#watched = new WatchedRun(this.#api);
    this.#runs = new Runs(this.#api, new Notices(session?.token));
    this.list = new RunList({ api: this.#api, more: () => this.#runs.more() });
    this.log = new LogView({ open: (step) => this.#log(step || this.#newestStep()) });
    this.form = new StartForm({ api: this.#api, started: (answer) => this.#started(answer) });
    this.view = new RunView({
      api: this.#api,
      actions: {
        cancel: () => this.#cancel(),
        resume: () => this.#act(() => this.#api.resume(this.#selected)),
        again: () => this.#again(),
        remove: () => this.#remove(),
      },
    });
    const signIn = () => location.assign("/");
    this.status = new StatusView({ connection: this.#watched.connection, signIn });
    this.#listen();
  }

  start() {
    this.#showAddressed();
    this.#runs.start();
    this.#loadForm();
    setInterval(() => {
      if (document.visibilityState === "visible") this.#changed();
    }, SECOND);
  }

  #listen() {
    const watched = this.#watched;
    watched.on("change", (event) => this.#happened(event));
    watched.on("log", (piece) => this.#logs.get(piece.step)?.pushed(piece));
    watched.on("gone", ({ content }) => {
      this.#problem = content ? `${content[0].toUpperCase()}${content.slice(1)}.` : "There is no such run.";
      this.#changed();
    });
    watched.connection.on("state", () => this.#changed());
    this.#runs.on("change", this.#changed);
    this.#runs.on("locked", () => this.#lock());
    addEventListener("hashchange", () => this.#showAddressed());
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.#title().focus();
    });
  }

  /** Show the view that the address names. */
  #showAddressed() {
    const [, word = isNarrow.matches ? "runs" : "new", id = ""] = /^#\/(new|runs|run)(?:\/([A-Za-z0-9]+))?$/.exec(location.hash) ?? [];
    const selected = word === "run" && id ? id : null;
    document.body.dataset.view = selected ? "run" : word === "runs" ? "list" : "new";
    if (selected !== this.#selected) {
      this.#selected = selected;
      this.#logs = new Map();
      this.#results = null;
      this.#problem = "";
      this.log.show(null);
      if (selected) this.#watched.watch(selected);
      else this.#watched.leave();
      scrollTo(0, 0);
    }
    if (!selected) this.#notice = "";
    if (word === "new" && location.hash) $("main-title").focus({ preventScroll: true });
    this.#changed();
  }

  /** The heading of what is in view; on a phone, the list has the page to itself. */
  #title() {
    if (isNarrow.matches && document.body.dataset.view === "list") return $("runs-title");
    if (!this.#selected) return $("main-title");
    return $($("gone").hidden ? "run-title" : "gone-title");
  }

  async #loadForm() {
    try {
      await this.form.load();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 401) this.#lock();
      else if (error.status === 404) this.#switchedOff();
      else $("start-problem").textContent = error.message;
    }
  }

  #lock() {
    this.#runs.stop();
    this.#watched.leave();
    $("locked").hidden = false;
    $("new").hidden = $("run").hidden = $("runs-pane").hidden = true;
  }

  #switchedOff() {
    $("locked-title").textContent = "No pipelines here";
    $("locked-text").textContent = "They are switched off on this server: pipelines.enabled in its settings.";
    $("locked-link").hidden = true;
    this.#lock();
  }

  #happened(event) {
    const { run } = this.#watched;
    this.#runs.took(run);
    const isEnd = event.type === "run" && !isActive(run);
    if (event.type === "state" || isEnd || (event.type === "step" && event.status === "done")) this.#loadResults(run.id);
    if (event.type === "state") for (const log of this.#logs.values()) log.returned();
    if (event.type === "run") this.#announcer.say(`${run.sample}: ${runState(run)}`);
    if (event.type === "step" && event.status !== "running") {
      const step = run.steps.find(({ name }) => name === event.step);
      this.#announcer.say(`${step.title}: ${event.status}`);
    }
    if (event.type === "run" && event.status !== "queued") this.#notice = "";
    this.#changed();
  }

  async #loadResults(id) {
    try {
      const results = await this.#api.results(id);
      if (id === this.#selected) this.#results = results;
      this.#changed();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }

  #newestStep() {
    const steps = this.#watched.run?.steps ?? [];
    const failed = steps.find(({ status }) => status === "failed");
    const begun = steps.filter(({ started }) => started).sort((a, b) => a.started - b.started);
    return (failed ?? begun.at(-1))?.name ?? null;
  }

  #log(step) {
    const id = this.#selected;
    if (!step || !id) return null;
    if (!this.#logs.has(step)) {
      const log = new StepLog((range) => this.#api.log(id, step, range));
      this.#logs.set(step, log);
      log.load();
    }
    return this.#logs.get(step);
  }

  #started({ run, joined }) {
    this.#runs.took(run);
    this.#notice = joined ? "This run was under way already: you have joined it." : "";
    location.hash = `#/run/${run.id}`;
    queueMicrotask(() => $("run-title").focus({ preventScroll: true }));
  }

  async #act(work) {
    this.#problem = "";
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#problem = error.message;
      return null;
    } finally {
      this.#changed();
    }
  }

  async #cancel() {
    const { sample } = this.#watched.run;
    if (!(await ask(`Cancel the run of ${sample}? Steps that are done stay done.`, "Cancel it"))) return;
    const run = await this.#act(() => this.#api.cancel(this.#selected));
    if (run && isActive(run)) this.#notice = "Its programs are being stopped…";
    this.#changed();
  }

  #again() {
    this.form.fill(this.#watched.run);
    location.hash = "#/new";
  }

  async #remove() {
    const id = this.#selected;
    if (!(await ask(`Delete the run of ${this.#watched.run.sample}, its log and its results?`, "Delete"))) return;
    await this.#act(async () => {
      await this.#api.remove(id);
      this.#runs.forget(id);
      location.hash = isNarrow.matches ? "#/runs" : "#/new";
    });
  }

  #render() {
    const { run } = this.#watched;
    const { selected, hasRun } = { selected: this.#selected, hasRun: Boolean(run) };
    if (!$("locked").hidden) return;
    const isGone = !hasRun && this.#problem !== "";
    $("new").hidden = selected !== null;
    $("run").hidden = selected === null || isGone;
    $("run").classList.toggle("empty", !hasRun);
    $("gone").hidden = !isGone;
    $("pill").hidden = selected === null || isGone;
    this.list.render({ ...this.#runs, selected });
    document.title = `${run ? `${run.progress}% ${run.sample}` : "Pipelines"} · tidewire`;
    $("gone-text").textContent = isGone ? this.#problem : "";
    if (!run) return;
    this.view.render(run, { notice: this.#notice, problem: this.#problem, results: this.#results });
    this.log.offer(run);
    this.log.show(this.#log(this.log.chosen || this.#newestStep()));
  }
}

const session = load();
await presentByCookie(session);
watchSignOut(() => location.reload());
new Page(session).start();
