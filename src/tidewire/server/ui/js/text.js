// Text for people: links, times, initials, colours of names, counts.

import { el } from "./dom.js";

const LINK = /\bhttps?:\/\/[^\s<>"'`]+/g;
const TRAILING = /[.,;:!?]$/;
const CLOSING = { ")": "(", "]": "[", "}": "{" };
const HUES = 12;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const thisYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const otherYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });

/** Nodes for a text in which http and https addresses can be clicked. */
export function linked(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(LINK)) {
    const address = trimmed(match[0]);
    if (!URL.canParse(address)) continue;
    nodes.push(text.slice(from, match.index));
    nodes.push(el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow", text: address }));
    from = match.index + address.length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

// Punctuation behind an address is the sentence's; a bracket is the address's own where one opens in it.
function trimmed(address) {
  for (;;) {
    const last = address.at(-1);
    const opening = CLOSING[last];
    const isForeign = opening ? address.split(last).length > address.split(opening).length : TRAILING.test(address);
    if (!isForeign) return address;
    address = address.slice(0, -1);
  }
}

export const timeOfDay = (time) => clock.format(time);
export const fullTime = (time) => moment.format(time);

/** A number that is the same for all moments of one local day. */
export function dayOf(time) {
  const date = new Date(time);
  return date.getFullYear() * 10_000 + date.getMonth() * 100 + date.getDate();
}

export function dayName(time, now = Date.now()) {
  const day = dayOf(time);
  if (day === dayOf(now)) return "Today";
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (day === dayOf(yesterday.getTime())) return "Yesterday";
  const sameYear = new Date(time).getFullYear() === new Date(now).getFullYear();
  return (sameYear ? thisYear : otherYear).format(time);
}

export function initials(name) {
  const parts = name.split(/[-_. ]+/).filter(Boolean);
  const letters = parts.length > 1 ? parts[0][0] + parts[1][0] : [...name].slice(0, 2).join("");
  return letters.toUpperCase();
}

/** The same colour for the same name, on every device. */
export function hueOf(name) {
  let hash = 2_166_136_261;
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 16_777_619);
  return ((hash >>> 0) ^ (hash >>> 13)) % HUES;
}

export function avatar(name) {
  return el("span", { class: "avatar", "data-hue": (hueOf(name) + HUES) % HUES, "aria-hidden": "true", text: initials(name) });
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/** A number for a badge. */
export const brief = (number) => (number > 99 ? "99+" : String(number));
