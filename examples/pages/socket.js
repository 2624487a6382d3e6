// A WebSocket that comes back by itself: after any time up to half a second, doubled each time, up to ten (full jitter).

const FINAL = new Set([1008, 1009]); // and 4500 to 4999: coming back does not help

/** Connect to a path of this server. `onOpen` is called each time, before the history comes; `onState` is given words. */
export function connect(path, { onMessage, onOpen = () => {}, onState = () => {} }) {
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  let socket = null;
  let attempt = 0;
  let isClosed = false;

  function open() {
    onState("connecting…");
    socket = new WebSocket(url);
    socket.onopen = () => {
      attempt = 0;
      onState("connected");
      onOpen();
    };
    socket.onmessage = (event) => onMessage(event.data);
    socket.onclose = (event) => {
      if (isClosed) return;
      if (FINAL.has(event.code) || event.code >= 4500) {
        onState(`ended: ${event.reason || event.code}`);
        return;
      }
      const delay = Math.random() * Math.min(10_000, 500 * 2 ** attempt++);
      onState("connection lost; coming back…");
      setTimeout(open, delay);
    };
  }

  open();
  return {
    /** Send a text; false when there is no connection to take it. */
    send(text) {
      if (socket.readyState !== WebSocket.OPEN) return false;
      socket.send(text);
      return true;
    },
    close() {
      isClosed = true;
      socket.close();
    },
  };
}

/** Make an element with a text, which is never taken for HTML. */
export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/** Show the state of the connection in the page's `#state`. */
export function showState(text) {
  const state = document.querySelector("#state");
  state.textContent = text;
  state.dataset.good = text === "connected";
}

/** Append to a list that scrolls, which stays at its end if it was there, and holds at most `most` entries. */
export function append(list, entry, most = 500) {
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(entry);
  while (list.childElementCount > most) list.firstElementChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}
