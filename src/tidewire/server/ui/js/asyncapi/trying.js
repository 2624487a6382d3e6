// "Try it": a channel is subscribed to, published in and asked; a call is made.

import { el } from "../dom.js";
import { timeOfDay } from "../text.js";

const words = (error) => [error.message ?? error.reason, error.code ? `(${error.code})` : ""].filter(Boolean).join(" ");

/** The events so far, the newest at the end. */
function makeLog(id) {
  const list = el("ol", { class: "frames", role: "log", "aria-label": `What happened in ${id}`, tabindex: "0" });
  const say = (way, text, kind = "") => {
    list.append(el("li", { class: kind }, el("span", { class: "way", text: way }), el("span", { class: "data", text }),
      el("time", { text: timeOfDay(Date.now()) })));
    list.scrollTop = list.scrollHeight;
  };
  return [list, say];
}

function field(id, label, control) {
  control.id = id;
  return el("div", { class: "field" }, el("label", { for: id, text: label }), control);
}

function message(doc, id, label) {
  const area = el("textarea", { rows: 4, spellcheck: "false", autocapitalize: "none" });
  area.value = doc.example(id);
  return [area, field(`${id}-data`, label, area)];
}

function button(text, kind, work) {
  return el("button", { type: "button", class: kind, text, on: { click: work } });
}

function read(area) {
  try {
    area.removeAttribute("aria-invalid");
    return JSON.parse(area.value);
  } catch (error) {
    area.setAttribute("aria-invalid", "true");
    throw new Error(`this is no JSON: ${error.message}`);
  }
}

/** The form of a call. */
export function tryCall(doc, clients, { id, channel }) {
  const [area, data] = message(doc, id, "Data");
  const [list, say] = makeLog(channel["x-tidewire-rpc"]);
  const call = button("Call", "primary", async () => {
    try {
      const value = read(area);
      say("sent", JSON.stringify(value), "sent");
      say("reply", JSON.stringify(await (await clients.of()).rpc(channel["x-tidewire-rpc"], value)));
    } catch (error) {
      say("refused", words(error), "refused");
    }
  });
  return el("div", { class: "try" }, data, el("div", { class: "row" }, call), list);
}

/** The form of the channels of one pattern. */
export function tryChannel(doc, clients, { id, channel }) {
  return new ChannelTrial(doc, clients, id, channel).element;
}

class ChannelTrial {
  #clients;
  #channel;
  #says;
  #inputs;
  #area;
  #say;
  #toggle;
  #subscription = null;
  /** Resolved when what the last click of the toggle asked for has begun. */
  #turned = Promise.resolve();
  /** Resolved when the subscription is there, or has failed: a subscriber may do more than others. */
  #settled = Promise.resolve();
  #settle = () => {};

  constructor(doc, clients, id, channel) {
    this.#clients = clients;
    this.#channel = channel;
    this.#says = channel["x-tidewire"] ?? {};
    this.#inputs = Object.keys(channel.parameters ?? {}).map((name) => [name, el("input", { autocomplete: "off", autocapitalize: "none", spellcheck: "false" })]);
    const [area, data] = message(doc, id, "Message");
    const [list, say] = makeLog(channel.address);
    this.#area = area;
    this.#say = say;
    this.#toggle = button("Subscribe", "primary", () => this.#turn());
    const ask = { history: this.#says.history > 0 && "History", presence: this.#says.presence && "Who is there" };
    const asked = Object.entries(ask).filter(([, text]) => text).map(([what, text]) => button(text, "quiet", () => this.#attempt(() => this.#ask(what))));
    const names = this.#inputs.map(([name, input]) => field(`${id}-${name}`, name, input));
    const publish = button("Publish", "outlined", () => this.#attempt(() => this.#publish()));
    this.element = el("div", { class: "try" },
      ...(names.length ? [el("div", { class: "columns" }, ...names)] : []), data,
      el("div", { class: "row" }, this.#toggle, publish, ...asked), list);
  }

  /** The name of the channel that is meant; a parameter that is missing is asked for. */
  #name() {
    for (const [name, input] of this.#inputs) {
      input.toggleAttribute("aria-invalid", !input.value);
      if (input.value) continue;
      input.focus();
      throw new Error(`the channel's name needs a ${name}`);
    }
    return this.#inputs.reduce((text, [name, input]) => text.replace(`{${name}}`, () => input.value), this.#channel.address);
  }

  async #attempt(work) {
    try {
      await work();
    } catch (error) {
      this.#say("refused", words(error), "refused");
    }
  }

  #turn() {
    this.#turned = this.#turned.then(() => this.#attempt(() => (this.#subscription ? this.#leave() : this.#enter())));
  }

  #leave() {
    const before = this.#subscription;
    this.#ended();
    before.unsubscribe();
    this.#say("left", before.channel);
  }

  async #enter() {
    const name = this.#name();
    const client = await this.#clients.of(this.#says.connect);
    const subscription = client.subscribe(name, ({ data, offset }) => this.#say(offset ? `offset ${offset}` : "shown", JSON.stringify(data)));
    this.#subscription = subscription;
    this.#settled = new Promise((resolve) => (this.#settle = resolve));
    for (const event of ["subscribed", "error", "unsubscribed"]) subscription.on(event, this.#settle);
    this.#toggle.textContent = "Unsubscribe";
    subscription.on("subscribed", ({ wasRecovering, recovered }) =>
      this.#say("subscribed", wasRecovering ? `${name}, ${recovered ? "and got all missed messages" : "but not all missed messages"}` : name));
    subscription.on("error", (error) => this.#say("refused", words(error), "refused"));
    subscription.on("unsubscribed", (ending) => this.#subscription === subscription && this.#ended(ending));
    client.on("disconnected", (ending) => this.#subscription === subscription && this.#ended(ending));
  }

  #ended(ending) {
    this.#subscription = null;
    this.#settle();
    this.#toggle.textContent = "Subscribe";
    if (ending) this.#say("ended", words(ending), "refused");
  }

  /** Gives the client when what was clicked before is done. */
  async #ready() {
    await this.#turned;
    await this.#settled;
    return this.#clients.of(this.#says.connect);
  }

  async #publish() {
    const name = this.#name();
    const value = read(this.#area);
    this.#say("sent", JSON.stringify(value), "sent");
    const client = await this.#ready();
    await client.publish(name, value);
    this.#say("accepted", name);
  }

  async #ask(what) {
    const name = this.#name();
    const client = await this.#ready();
    if (what === "presence") {
      const members = await client.presence(name);
      this.#say("present", members.map(({ user, client: id }) => user || id).join(", ") || "nobody");
      return;
    }
    const { publications } = await client.history(name, { limit: 10, reverse: true });
    this.#say("history", publications.length ? "the last ones:" : "nothing is kept");
    for (const { offset, data } of publications.reverse()) this.#say(`offset ${offset}`, JSON.stringify(data));
  }
}
