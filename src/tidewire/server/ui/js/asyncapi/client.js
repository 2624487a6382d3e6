// The connections of this page: one for each thing that clients of the server say when they connect.

// The codes for a client that may not connect.
const REFUSALS = new Set([101, 103, 3500, 3501]);

/** Makes connections when something is tried first; `told(state, words)` hears how they are. */
export class Clients {
  #doc;
  #told;
  #token = "";
  #clients = new Map();

  constructor(doc, told) {
    this.#doc = doc;
    this.#told = told;
  }

  /** Everything that is tried from now on says this token. */
  use(token) {
    if (token === this.#token) return;
    this.#token = token;
    for (const opening of this.#clients.values()) opening.then((client) => client.disconnect(), () => {});
    this.#clients.clear();
    this.#told("none", "Not connected: try a channel");
  }

  /** Gives the client for a channel, in a promise; `data` is its connect data. */
  of(data) {
    const key = JSON.stringify(data ?? null);
    const known = this.#clients.get(key);
    if (known) return known;
    // kept before it is there: two things that are tried at once share one
    const opening = this.#open(data, () => this.#clients.get(key) === opening && this.#clients.delete(key));
    this.#clients.set(key, opening);
    return opening;
  }

  /** `forget()` takes a client that has ended from those that are given; it says whether it was one. */
  async #open(data, forget) {
    const { pathname } = this.#doc.socket;
    const { connect } = await import(pathname.replace(/websocket$/, "tidewire.js")).catch((error) => {
      forget();
      throw error;
    });
    const client = connect(pathname, { ...(this.#token && { token: this.#token }), ...(data && { data }) });
    this.#told("connecting", "Connecting …");
    client.on("connected", () => this.#told("connected", "Connected"));
    client.on("connecting", ({ reason }) => this.#told("waiting", `Connecting again: ${reason}`));
    client.on("disconnected", ({ code, reason }) => {
      const hint = REFUSALS.has(code) && !this.#token ? ". Strangers may not connect: give a token, or sign in" : "";
      if (forget()) this.#told("final", `Not connected: ${reason} (${code})${hint}`);
    });
    return client;
  }
}
