// Who is signed in on this device. The token stays in the browser's storage and goes out in messages and headers,
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
  cookie("", 0);
}

/** Let the browser show the token where a page cannot: with a download and with a WebSocket. */
export function presentByCookie(session) {
  if (session) cookie(session.token);
}

// Only for the paths that need it, and never sent by another site's page.
function cookie(value, seconds = null) {
  const age = seconds === null ? "" : `; Max-Age=${seconds}`;
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `token=${value}; Path=/api/pipelines; SameSite=Strict${age}${secure}`;
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
