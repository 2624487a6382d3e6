// The chat of a signed-in person: which thread is in view, and the views drawn from the client's state.

import { endSessions, stillValid } from "./api.js";
import { Client } from "./client.js";
import { personProblem } from "./conversations.js";
import { coalesce } from "./dom.js";
import { LOBBY, nameProblem } from "./rooms.js";
import { go, route } from "./router.js";
import { brief, count } from "./text.js";
import { AccountDialog } from "./views/account.js";
import { Announcer } from "./views/announcer.js";
import { ask } from "./views/ask.js";
import { Composer } from "./views/composer.js";
import { PersonDialog, RoomDialog, unsentQuestion } from "./views/dialogs.js";
import { Drawers } from "./views/drawers.js";
import { LogView } from "./views/log.js";
import { PeopleView } from "./views/people.js";
import { SidebarView } from "./views/sidebar.js";
import { StatusView } from "./views/status.js";
import { keepAboveKeyboard } from "./views/viewport.js";

const $ = (id) => document.getElementById(id);
const hasKeyboard = matchMedia("(hover: hover) and (pointer: fine)");

export class Page {
  #session;
  #box;
  #signOut;
  #client;
  #active = null;
  #announcer = new Announcer();
  #changed = coalesce(() => this.#render());

  constructor({ session, box, signOut }) {
    this.#session = session;
    this.#box = box;
    this.#signOut = signOut;
    this.#client = new Client({ session, box });
    this.#makeViews();
    this.#listen();
  }

  start() {
    this.#showAddressed();
    this.#client.connection.start();
  }

  /** Leave nothing of this person on the device. */
  forget() {
    this.#client.connection.stop();
    this.#box.retire();
  }

  #makeViews() {
    const client = this.#client;
    const changed = () => this.#changed();
    const actions = {
      retry: ({ id }) => client.unsent.retry(id),
      discard: ({ id }) => client.unsent.discard(id),
      edit: ({ id }) => this.composer.edit(client.unsent.discard(id)),
    };
    const earlier = (thread) => thread.kind === "room" && client.rooms.askEarlier(thread);
    this.log = new LogView({ me: client.me, actions, changed, earlier, pending: (thread) => this.#pending(thread) });
    this.sidebar = new SidebarView({ client });
    this.people = new PeopleView({ me: client.me, changed });
    this.composer = new Composer({ write: (...message) => this.#write(...message) });
    this.status = new StatusView({
      connection: client.connection,
      signIn: () => this.#signOut("Sign in again to go on. Unsent messages are kept."),
    });
    this.drawers = new Drawers();
    keepAboveKeyboard($("chat"));
    this.roomDialog = new RoomDialog({ rooms: client.rooms, go });
    this.personDialog = new PersonDialog({ me: client.me, go });
    this.account = new AccountDialog({
      token: this.#session.token,
      everywhere: () => this.#leaveForGood({ everywhere: true }),
    });
  }

  #listen() {
    const client = this.#client;
    client.on("change", this.#changed);
    client.on("notice", (text) => this.composer.problem(text));
    client.rooms.on("earlier", (room) => room === this.#active && this.log.above());
    client.on("recovered", (number) => this.status.recovered(number));
    client.on("arrived", (thread, shown) => this.#announce(thread, shown));
    client.connection.on("state", (state) => this.#connectionIs(state));
    addEventListener("hashchange", () => this.#showAddressed());
    document.addEventListener("visibilitychange", this.#changed);
    $("browse").addEventListener("click", () => this.roomDialog.open());
    $("compose").addEventListener("click", () => this.personDialog.open());
    $("earlier").addEventListener("click", () => client.rooms.askEarlier(this.#active));
    $("account").addEventListener("click", () => this.account.open());
    $("sign-out").addEventListener("click", () => this.#leaveForGood());
    $("thread-leave").addEventListener("click", () => this.#leaveThread());
    $("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.composer.focus();
    });
    for (const list of ["sidebar", "people"]) {
      $(list).addEventListener("click", (event) => event.target.closest("a") && this.#chosen(event));
    }
  }

  // A link in a panel: also when it names the thread in view, which changes no address.
  #chosen() {
    this.drawers.close({ giveBack: false });
    if (hasKeyboard.matches) queueMicrotask(() => this.composer.focus());
    else $("thread-title").focus();
  }

  /** Show the thread that the address asks for. */
  #showAddressed() {
    const wanted = route();
    const { rooms, conversations } = this.#client;
    let thread = null;
    if (wanted?.kind === "room" && !nameProblem(wanted.name)) thread = rooms.join(wanted.name);
    if (wanted?.kind === "person" && wanted.name !== this.#client.me && !personProblem(wanted.name)) {
      thread = conversations.open(wanted.name);
    }
    if (!thread) {
      go(this.#active ?? rooms.get(LOBBY) ?? rooms.first, { replace: true });
      return;
    }
    if (thread === this.#active) return;
    this.#active = thread;
    this.drawers.allowPeople(thread.kind === "room");
    this.drawers.close({ giveBack: false });
    this.composer.show(thread);
    this.log.show(thread);
    if (hasKeyboard.matches) this.composer.focus();
  }

  #write(thread, text, accepted) {
    const result = this.#client.write(thread, text);
    if (typeof result === "string") return result;
    accepted();
    if (result !== thread) go(result);
    else this.log.toNewest();
    return "";
  }

  #pending(thread) {
    const waitingFor = this.#client.connection.state.name === "connected" ? "answer" : "connection";
    return this.#client.unsent.of(thread.key).map(({ id, text, at, state, error }) => {
      const entry = { kind: "message", key: `id:${id}`, sender: this.#client.me, text, time: at };
      return { ...entry, id, state, error, waitingFor };
    });
  }

  #announce(thread, shown) {
    if (shown.sender === this.#client.me) return;
    if (thread === this.#active) this.#announcer.say(`${shown.sender}: ${shown.text}`);
    else if (thread.kind === "person") this.#announcer.say(`Private message from ${shown.sender}`);
  }

  async #connectionIs({ name, code }) {
    this.#changed();
    if (name !== "final" || code !== 1008) return;
    if ((await stillValid(this.#session.token)) === false) {
      this.#signOut("Your session has ended. Sign in again to go on. Unsent messages are kept.");
    }
  }

  async #leaveForGood({ everywhere = false } = {}) {
    const unsent = this.#box.keys("out/").length;
    if (unsent && !(await ask(unsentQuestion(unsent, "Signing out discards unsent messages."), "Sign out"))) return;
    this.forget();
    let notice = "";
    try {
      await endSessions(this.#session.token, { everywhere });
    } catch {
      notice = "You are signed out on this device. The server could not be reached, so your session there ends later by itself.";
    }
    this.#signOut(notice);
  }

  async #leaveThread() {
    const thread = this.#active;
    const unsent = this.#client.unsent.of(thread.key);
    if (unsent.length) {
      const what = "Leaving discards unsent messages.";
      if (!(await ask(unsentQuestion(unsent.length, what), "Leave"))) return;
      for (const { id } of unsent) this.#client.unsent.discard(id);
    }
    if (thread.kind === "room") this.#client.rooms.leave(thread.name);
    else this.#client.conversations.close(thread.name);
    go(this.#client.rooms.first, { replace: true });
  }

  #render() {
    const thread = this.#active;
    if (!thread) return;
    if (thread.kind === "room" && !this.#client.rooms.get(thread.name)) {
      go(this.#client.rooms.first, { replace: true });
      return;
    }
    this.log.render();
    $("earlier").hidden = !(thread.hasEarlier && this.log.atOldest);
    setText($("earlier"), thread.asksEarlier ? "Fetching earlier messages…" : "Show earlier messages");
    if (document.visibilityState === "visible" && this.log.atNewest && isFilled(thread)) thread.markRead();
    this.sidebar.render(thread);
    this.people.render(thread);
    this.#renderHead(thread);
    this.#renderEmpty(thread);
    const unread = this.#client.threads.reduce((sum, one) => sum + one.unread, 0);
    document.title = `${unread ? `(${brief(unread)}) ` : ""}${thread.name} · tidewire`;
  }

  #renderHead(thread) {
    const isRoom = thread.kind === "room";
    setText($("thread-title"), thread.name);
    $("thread-title").classList.toggle("room-name", isRoom);
    const isOnline = this.#client.rooms.isOnline(thread.name);
    const people = count(thread.people?.length ?? 0, "person", "people");
    setText($("thread-detail"), isRoom ? `${people} online` : isOnline ? "Private · online now" : "Private conversation");
    const canLeave = !isRoom || this.#client.rooms.all.length > 1;
    setText($("thread-leave"), isRoom ? "Leave" : "Close");
    $("thread-leave").hidden = !canLeave;
    $("thread-leave").setAttribute("aria-label", isRoom ? `Leave the room ${thread.name}` : "Close this conversation");
    $("thread-problem").hidden = !thread.problem;
    setText($("thread-problem").firstElementChild, thread.problem);
  }

  #renderEmpty(thread) {
    const isEmpty = thread.timeline.items.length === 0 && this.#client.unsent.of(thread.key).length === 0;
    $("empty").hidden = !isEmpty;
    if (!isEmpty) return;
    const isLoading = thread.kind === "room" && !thread.position;
    const [title, text] = isLoading ? ["", "Fetching messages…"] : emptyWords(thread);
    setText($("empty-title"), title);
    setText($("empty-text"), text);
  }
}

// A room whose history is not there yet has nothing that could have been read.
function isFilled(thread) {
  return thread.kind === "person" || thread.position !== null;
}

function emptyWords({ kind, name }) {
  if (kind === "person") return [`You and ${name}`, "Only the two of you see these messages. They wait for a person who is away."];
  return [`Nothing said in ${name} yet`, "Write the first message. Everybody who joins later will find it here."];
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
