// The person that is signed in on this device. The token stays in the browser's storage and goes out in messages and headers,
// never in a URL.

import { Box, lasting, passing } from "./storage.js";

const KEY = "session";
const boxes = [new Box(passing, "tidewire:"), new Box(lasting, "tidewire:")];

/** The session of this tab, or the one that was to be kept on this device, or null. */
export function load() {
  for (const box of boxes) {
    const session = box.get(KEY);
    if (session?.token && session.username) return session;
  }
  return null;
}

/** Keep `{token, username}`: on this device when `stay`, otherwise until the tab closes. */
export function save({ token, username, stay }) {
  forget();
  boxes[stay ? 1 : 0].set(KEY, { token, username, stay });
}

export function forget() {
  for (const box of boxes) box.remove(KEY);
}

/** Have the browser show the token where a page cannot, with a download and with a WebSocket; no script can read it. */
export async function presentByCookie(session) {
  if (session) await cookie({ method: "POST", headers: { Authorization: `Bearer ${session.token}` } });
}

export async function withdrawCookie() {
  await cookie({ method: "DELETE", keepalive: true });
}

async function cookie(options) {
  try {
    await fetch("/api/pipelines/session", options);
  } catch {
    // The server is away: the next request reports it.
  }
}

/** Where this person's positions, unsent messages and conversations are kept: as lasting as the session. */
export function personalBox({ username, stay }) {
  return new Box(stay ? lasting : passing, `tidewire/${username}/`);
}

/** Call `listener` when another tab signs out. */
export function watchSignOut(listener) {
  boxes[1].watch((key, value) => {
    if (key === KEY && value === null) listener();
  });
}
