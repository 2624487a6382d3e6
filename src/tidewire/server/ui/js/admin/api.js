// The calls of the HTTP API that this page is allowed, and the key where the server wants one.

const base = document.documentElement.dataset.base;
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

/** Call a method; the result, or an Error with the words of the server. */
export async function call(method, body = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key()) headers["X-API-Key"] = key();
  let response;
  try {
    response = await fetch(`${base}/api/${method}`, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer; trying again.");
  }
  if (response.status === 401) throw new NotAllowed("The key is missing or wrong.");
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(typeof told.detail === "string" ? told.detail : `The server answers ${response.status}.`);
  }
  const { result, error } = await response.json();
  if (error) throw new Error(error.detail || error.message);
  return result;
}
