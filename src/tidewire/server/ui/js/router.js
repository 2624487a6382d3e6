// Which thread is in view stands in the fragment of the address: #/room/lobby, #/with/ann. A link to a room works,
// and so does the back button. No token is ever there.

const WORDS = { room: "room", person: "with" };
const KINDS = { room: "room", with: "person" };

export function address({ kind, name }) {
  return `#/${WORDS[kind]}/${encodeURIComponent(name)}`;
}

/** The thread that the address names: `{kind, name}`, or null when it names none that we know. */
export function route() {
  const [, word, name] = /^#\/(room|with)\/(.+)$/.exec(location.hash) ?? [];
  if (!word) return null;
  try {
    return { kind: KINDS[word], name: decodeURIComponent(name) };
  } catch {
    return null;
  }
}

export function go(thread, { replace = false } = {}) {
  if (replace) {
    history.replaceState(null, "", address(thread));
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = address(thread);
  }
}
