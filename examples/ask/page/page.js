const [form, question, stop, state, list] = ["#form", "#question", "#stop", "#state", "#texts"].map((name) =>
  document.querySelector(name),
);
if (!/^#[a-z0-9]{1,32}$/.test(location.hash)) location.hash = Math.random().toString(36).slice(2, 10);
const path = `/ask/${location.hash.slice(1)}`;
const texts = new Map();

function show({ stream, at, text, end }) {
  let shown = texts.get(stream);
  if (!shown) {
    shown = document.createElement("p");
    texts.set(stream, shown);
    list.append(shown);
  }
  shown.textContent = at === 0 ? text : shown.textContent + text;
  stop.disabled = Boolean(end);
  told(end ?? "writing");
}

// the browser comes back by itself, with the position of the last event
const source = new EventSource(path);
source.onmessage = ({ data }) => show(JSON.parse(data));
source.onopen = () => told("connected", "connected");
source.onerror = () => told("offline", "connecting");

function told(text, connection = state.dataset.state) {
  state.textContent = text;
  state.dataset.state = connection;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ text: question.value });
  const headers = { "Content-Type": "application/json" };
  const isTaken = await fetch(path, { method: "POST", headers, body }).then(({ ok }) => ok, () => false);
  if (isTaken) form.reset();
  else told("not asked: the server is away");
});
stop.addEventListener("click", () => fetch(path, { method: "DELETE" }).catch(() => told("offline")));
