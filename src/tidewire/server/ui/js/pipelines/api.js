// The requests of the page about pipelines and runs. Each returns a value or throws a Refusal.

import { Refusal, detail, request, sentence } from "../api.js";

const ROOT = document.querySelector('meta[name="tidewire-api"]')?.content ?? "/api/pipelines";
const NO_ANSWER = "The server has a problem. Try again in a moment.";

export class PipelinesApi {
  #token;
  #ahead = 0;

  /** `token` is that of the signed-in person; a server on this machine wants none. */
  constructor(token = "") {
    this.#token = token;
  }

  /** The server's clock, in seconds: a phone's own may be minutes away from it. */
  now() {
    return Date.now() / 1000 + this.#ahead;
  }

  pipelines() {
    return this.#json("/");
  }

  async inputs() {
    return (await this.#json("/inputs")).inputs;
  }

  /** A page of the runs, the newest first: `{runs, next}`. */
  runs({ before = null, limit = 50 } = {}) {
    return this.#json(`/runs?${new URLSearchParams({ limit, ...(before ? { before } : {}) })}`);
  }

  start(body) {
    return this.#json("/runs", { method: "POST", body: JSON.stringify(body), json: true });
  }

  async run(id) {
    return (await this.#json(`/runs/${id}`)).run;
  }

  async cancel(id) {
    return (await this.#json(`/runs/${id}/cancel`, { method: "POST" })).run;
  }

  async resume(id) {
    return (await this.#json(`/runs/${id}/resume`, { method: "POST" })).run;
  }

  async remove(id) {
    await this.#ask(`/runs/${id}`, { method: "DELETE" });
  }

  async results(id) {
    return (await this.#json(`/runs/${id}/results`)).results;
  }

  resultAddress(id, name) {
    return `${ROOT}/runs/${id}/results/${name.split("/").map(encodeURIComponent).join("/")}`;
  }

  /** Bytes of a step's log: `{bytes, next, size}`; a negative `from` counts from the end. */
  async log(id, step, { from, limit }) {
    const query = new URLSearchParams({ step, from, limit });
    const response = await this.#ask(`/runs/${id}/log?${query}`);
    const number = (name) => Number.parseInt(response.headers.get(name) ?? "0", 10);
    return { bytes: new Uint8Array(await response.arrayBuffer()), next: number("Log-Next"), size: number("Log-Size") };
  }

  eventsAddress(id) {
    const address = new URL(`${ROOT}/runs/${id}/events?log=1`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    return address.href;
  }

  /** Send a file; `told(fraction)` hears how far it is. Resolves to the upload's id. */
  upload(file, { told, signal }) {
    return new Promise((resolve, reject) => {
      // fetch() does not say how much of a body has gone.
      const asked = new XMLHttpRequest();
      asked.open("POST", `${ROOT}/uploads?${new URLSearchParams({ name: file.name })}`);
      for (const [name, value] of Object.entries(this.#headers())) asked.setRequestHeader(name, value);
      asked.setRequestHeader("Content-Type", "application/octet-stream");
      asked.upload.onprogress = ({ loaded }) => told(file.size ? loaded / file.size : 1);
      asked.onload = () => {
        const body = parsed(asked.responseText);
        if (asked.status < 300 && body.upload) resolve(body.upload);
        else reject(new Refusal(sentence(String(body.detail ?? "")) || NO_ANSWER, { status: asked.status }));
      };
      asked.onerror = () => reject(new Refusal("The upload broke off. Check the connection and try again."));
      asked.onabort = () => reject(new Refusal("The upload was stopped."));
      signal.addEventListener("abort", () => asked.abort());
      asked.send(file);
    });
  }

  #headers() {
    return this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
  }

  async #json(path, options) {
    return (await this.#ask(path, options)).json();
  }

  async #ask(path, { json = false, ...options } = {}) {
    const headers = { ...this.#headers(), ...(json ? { "Content-Type": "application/json" } : {}) };
    const response = await request(ROOT + path, { ...options, headers });
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (date) this.#ahead = Math.abs(date - Date.now()) > 3_000 ? (date - Date.now()) / 1000 : 0;
    if (response.ok) return response;
    const text = sentence(await detail(response)) || (response.status < 500 ? "That did not work." : NO_ANSWER);
    throw new Refusal(text, { status: response.status });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
