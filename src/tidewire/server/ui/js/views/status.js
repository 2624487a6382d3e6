// The state of the connection, always in view: a pill when all is well, a bar when it is not.

const $ = (id) => document.getElementById(id);
const CAUGHT_UP = 6_000;

export class StatusView {
  #connection;
  #timer = 0;
  #note = "";
  #noteTimer = 0;
  #said = "";
  #wasLost = false;

  /** `signIn()` is offered when the server has ended the connection for good. */
  constructor({ connection, signIn }) {
    this.#connection = connection;
    $("bar-action").addEventListener("click", () => {
      if (this.#connection.state.name === "final" && this.#connection.state.code === 1008) signIn();
      else this.#connection.retryNow();
    });
    connection.on("state", () => this.render());
  }

  /** After a return: how many messages were fetched. */
  recovered(count) {
    this.#note = count > 0 ? `Caught up · ${count}` : "Caught up";
    clearTimeout(this.#noteTimer);
    this.#noteTimer = setTimeout(() => {
      this.#note = "";
      this.render();
    }, CAUGHT_UP);
    this.render();
  }

  render() {
    const { state } = this.#connection;
    clearTimeout(this.#timer);
    const { text, action, pill, say } = this.#describe(state);
    const isCalm = ["idle", "connected"].includes(state.name) || (state.name === "connecting" && !this.#wasLost);
    if (state.name === "waiting") this.#wasLost = true;
    $("pill").dataset.state = state.name;
    setText("pill-text", pill);
    $("bar").hidden = isCalm;
    $("bar").classList.toggle("bad", state.name === "final");
    setText("bar-text", text);
    setText("bar-action", action);
    $("bar-action").hidden = !action;
    this.#say(say);
    if (state.name === "connected") this.#wasLost = false;
    if (state.name === "waiting") this.#timer = setTimeout(() => this.render(), 250);
  }

  #describe(state) {
    const offline = navigator.onLine === false;
    switch (state.name) {
      case "connected":
        return { text: "", action: "", pill: this.#note || "Connected", say: "Connected" };
      case "waiting": {
        const left = Math.max(1, Math.ceil((state.until - Date.now()) / 1000));
        const why = offline ? "This device is offline." : reasonOf(state);
        const text = `${why} Trying again in ${left} s.`;
        return { text, action: "Try now", pill: offline ? "Offline" : "Reconnecting", say: `${why} Reconnecting.` };
      }
      case "final": {
        const isAuth = state.code === 1008;
        const reason = state.reason ? ` The server says: ${state.reason}.` : "";
        const text = isAuth ? `You are signed out.${reason}` : `The server has ended this connection.${reason}`;
        return { text, action: isAuth ? "Sign in" : "Reconnect", pill: isAuth ? "Signed out" : "Ended", say: text };
      }
      default:
        return { text: "Connecting…", action: "", pill: "Connecting", say: "" };
    }
  }

  #say(text) {
    if (!text || text === this.#said) return;
    this.#said = text;
    $("status").textContent = text;
  }
}

function reasonOf({ code, reason }) {
  if (code === 1012) return "The server is restarting.";
  if (code === 1013) return `${reason || "The server is full"}.`;
  return "The connection is lost.";
}

function setText(id, text) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
}
