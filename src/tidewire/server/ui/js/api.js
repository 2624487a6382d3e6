// HTTP requests: those of all pages, and the three of the chat. Each returns a value or throws a Refusal that says which
// field it is about.

export class Refusal extends Error {
  constructor(message, { status = 0, field = "form", wait = 0 } = {}) {
    super(message);
    this.status = status;
    this.field = field;
    this.wait = wait;
  }
}

/** Ask the server; throws a Refusal when it cannot be reached. */
export async function request(path, options) {
  try {
    return await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Refusal("The server cannot be reached. Check the connection and try again.");
  }
}

/** The server's words about a refusal, or nothing. */
export async function detail(response) {
  try {
    const body = await response.json();
    return typeof body.detail === "string" ? body.detail : "";
  } catch {
    return "";
  }
}

/** A server's words as a sentence for people. */
export function sentence(text) {
  const trimmed = text.trim();
  if (!trimmed) return "";
  const begun = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

function fieldOf(status, text) {
  if (status === 401) return "password";
  if (status === 409) return "username";
  if (status !== 422) return "form";
  return /password/i.test(text) ? "password" : "username";
}

async function credentials(path, username, password) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ username, password }),
  });
  if (response.ok) return (await response.json()).token;
  const text = await detail(response);
  const { status } = response;
  if (status === 429) {
    const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10) || 10;
    throw new Refusal("Too many attempts.", { status, wait });
  }
  const fallback = status >= 500 ? "The server has a problem. Try again in a moment." : "That did not work.";
  throw new Refusal(sentence(text) || fallback, { status, field: fieldOf(status, text) });
}

export const logIn = (username, password) => credentials("/login", username, password);
export const signUp = (username, password) => credentials("/signup", username, password);

/** End the session of a token, or all of its user's; throws a Refusal when the server did not. */
export async function endSessions(token, { everywhere = false } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  const path = everywhere ? "/logout/everywhere" : "/logout";
  const response = await request(path, { method: "POST", headers, signal: AbortSignal.timeout(5_000) });
  if (!response.ok && response.status !== 401) throw new Refusal(await detail(response), { status: response.status });
}

/** Change the password; returns how many other sessions have ended by that. */
export async function changePassword(token, password, new_password) {
  const response = await request("/password", {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ password, new_password }),
  });
  if (response.ok) return (await response.json()).ended;
  const { status } = response;
  const field = { 403: "password", 422: "new" }[status] ?? "form";
  throw new Refusal(sentence(await detail(response)) || "That did not work. Try again in a moment.", { status, field });
}

/** May people sign up here (`allowed`), and has nobody yet (`first`)? */
export async function signUpState() {
  try {
    const response = await request("/signup");
    return response.ok ? await response.json() : { allowed: true, first: false };
  } catch {
    return { allowed: true, first: false };
  }
}

/** Is the token still good? null when the server does not say. */
export async function stillValid(token) {
  try {
    const response = await request("/me", { headers: { Authorization: `Bearer ${token}` } });
    if (response.ok) return true;
    return response.status === 401 ? false : null;
  } catch {
    return null;
  }
}
