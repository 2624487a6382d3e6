// Changes in the list of runs, sent by the server over the module that any page may use: tidewire.js.
//
// Emits "news" { changed, removed }, "stale" when something may have been missed, "lost" when nothing is told now.

import { Client } from "../../tidewire.js";
import { Emitter } from "../emitter.js";

// An application that shows this page under its own roof tells nothing: then the list is asked for again and again.
const address = document.querySelector('meta[name="tidewire-notices"]')?.content;

export class Notices extends Emitter {
  #client;

  /** From here on nothing is missed. */
  isLive = false;

  /** `token` is that of the signed-in person; a server on this machine wants none. */
  constructor(token = "") {
    super();
    // The name of this page lets it subscribe to the list, and do nothing else.
    this.#client = new Client(address || "/", { token, data: { tidewire: "pipelines" } });
    this.#client.on("subscribed", ({ recovered }) => {
      this.isLive = true;
      if (!recovered) this.emit("stale");
    });
    this.#client.on("publication", ({ data }) => this.emit("news", data));
    for (const end of ["connecting", "disconnected", "unsubscribed"]) this.#client.on(end, () => this.#lost());
  }

  start() {
    if (address) this.#client.connect();
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
