// Changes in the list of runs, sent by the server over the module that any page may use: tidewire.js.
//
// Emits "news" { changed, removed }, "stale" when something may have been missed, "lost" when nothing is told now.

import { Client } from "../../tidewire.js";
import { Emitter } from "../emitter.js";

// An application that shows this page under its own roof may tell nothing: then the list is asked for again and again.
const isTold = document.querySelector('meta[name="tidewire-api"]')?.content === "/api/pipelines";

export class Notices extends Emitter {
  #client;

  /** From here on nothing is missed. */
  isLive = false;

  /** `token` is that of the signed-in person; a server on this machine wants none. */
  constructor(token = "") {
    super();
    // The name of this page lets it subscribe to the list, and do nothing else.
    this.#client = new Client("/connection/websocket", { token, data: { tidewire: "pipelines" } });
    this.#client.on("subscribed", ({ recovered }) => {
      this.isLive = true;
      if (!recovered) this.emit("stale");
    });
    this.#client.on("publication", ({ data }) => this.emit("news", data));
    for (const end of ["connecting", "disconnected", "unsubscribed"]) this.#client.on(end, () => this.#lost());
  }

  start() {
    if (isTold) this.#client.connect();
  }

  stop() {
    this.#client.disconnect();
  }

  #lost() {
    if (!this.isLive) return;
    this.isLive = false;
    this.emit("lost");
  }
}
