// The calls of the HTTP API that this page is allowed, and the key where the server wants one.

export const base = new URL(document.documentElement.dataset.base, document.baseURI).pathname;
const KEY = "tidewire:admin-key";

function key() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export function keepKey(value) {
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // A browser that forbids storage asks again after a reload.
  }
}

export class NotAllowed extends Error {}

/** An error of the server in words; `temporary` where the same call may succeed later. */
export function failure({ code, message, detail }) {
  const wrong = Array.isArray(detail) ? detail.map((one) => `${(one.loc ?? []).join(".")}: ${one.msg}`).join("; ") : detail;
  return Object.assign(new Error(wrong || message), { temporary: code === 100 });
}

/** Read a stream of lines, each a JSON object, until it ends or `signal` ends it. */
export async function read(path, take, signal) {
  let response;
  try {
    response = await fetch(`${base}/${path}`, { headers: key() ? { "X-API-Key": key() } : {}, signal });
  } catch {
    throw new Error("The server does not answer; trying again.");
  }
  if (response.status === 401) throw new NotAllowed("The key is missing or wrong.");
  if (!response.ok) throw new Error(`The server answers ${response.status}.`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) {
      if (rest) take(JSON.parse(rest));
      return;
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) take(JSON.parse(line));
  }
}

/** Read one JSON value. */
export async function get(path) {
  let found = {};
  await read(path, (value) => (found = value));
  return found;
}

/** Call a method; the result, or an Error with the words of the server. */
export const call = (method, body = {}) => post(`api/${method}`, body);

/** Post to a path of this page; the result, or an Error with the words of the server. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key()) headers["X-API-Key"] = key();
  let response;
  try {
    response = await fetch(`${base}/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw Object.assign(new Error("The server does not answer; trying again."), { temporary: true });
  }
  if (response.status === 401) throw new NotAllowed("The key is missing or wrong.");
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(typeof told.detail === "string" ? told.detail : `The server answers ${response.status}.`);
  }
  const answer = await response.json();
  if (answer.error) throw failure(answer.error);
  return answer.result ?? answer;
}
