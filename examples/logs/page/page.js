import { connect } from "/connection/tidewire.js";

const $ = (id) => document.getElementById(id);
const LEVELS = ["debug", "info", "warning", "error"];
const KEPT = 2_000;
let lines = [];
let isPaused = false;
let hidden = 0;

const wanted = ({ source, level, text }) =>
  (!$("source").value || $("source").value === source) &&
  LEVELS.indexOf(level) >= LEVELS.indexOf($("level").value) &&
  text.toLowerCase().includes($("filter").value.toLowerCase());

function row(line) {
  const item = document.createElement("li");
  item.className = line.level;
  const parts = [["time", new Date(line.at * 1_000).toLocaleTimeString()], ["b", line.level], ["span", line.source], ["span", line.text]];
  item.append(...parts.map(([tag, textContent]) => Object.assign(document.createElement(tag), { textContent })));
  return item;
}

function add(line) {
  lines.push(line);
  if (lines.length > KEPT) lines = lines.slice(-KEPT);
  if (isPaused) {
    hidden += 1;
    $("pause").textContent = `Go on (${hidden} new)`;
    return;
  }
  if (!wanted(line)) return;
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(row(line));
  if (log.childElementCount > KEPT) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function render() {
  $("log").replaceChildren(...lines.filter(wanted).map(row));
  $("log").scrollTop = $("log").scrollHeight;
}
for (const id of ["source", "level", "filter"]) $(id).oninput = render;
$("pause").onclick = () => {
  isPaused = !isPaused;
  hidden = 0;
  $("pause").setAttribute("aria-pressed", isPaused);
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) render();
};

const client = connect("/connection/websocket");
for (const state of ["connecting", "connected", "disconnected"]) client.on(state, () => ($("state").dataset.state = $("state").textContent = state));
for (const source of await (await fetch("/sources")).json()) {
  $("source").append(new Option(source));
  const getState = async () => {
    const { publications, position } = await client.history(`log:${source}`, { limit: 500, reverse: true });
    lines = [...lines.filter((line) => line.source !== source), ...publications.map(({ data }) => data)];
    lines.sort((a, b) => a.at - b.at || a.end.byte - b.end.byte);
    render();
    return position; // later publications come live
  };
  client.subscribe(`log:${source}`, ({ data }) => add(data), { getState });
}
