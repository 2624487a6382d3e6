// The publish form: a field for each part of the channel's type, beside the JSON that is published.

import { el } from "../dom.js";
import { get } from "./api.js";

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** The pattern of a channel's address as an expression; the longest that fits a name is its own. */
const fits = (address, name) => new RegExp(`^${address.split(/\{[^}]*\}/).map(escape).join("(.+)")}$`).test(name);

const last = (reference) => reference.split("/").pop();

function resolved(doc, schema) {
  let found = schema;
  while (found?.$ref) found = doc.components.schemas[last(found.$ref)];
  const some = found?.anyOf?.filter((one) => one.type !== "null");
  return some?.length === 1 ? resolved(doc, some[0]) : (found ?? {});
}

/** The messages that the application publishes in a channel, by name. */
function messages(doc, name) {
  const channels = Object.entries(doc.channels ?? {}).filter(([, one]) => fits(one.address, name));
  const [id] = channels.sort(([, one], [, other]) => other.address.length - one.address.length)[0] ?? [];
  const sends = Object.values(doc.operations ?? {}).find((one) => one.action === "send" && one.channel.$ref === `#/channels/${id}`);
  return (sends?.messages ?? []).map(({ $ref }) => doc.components.messages[last($ref)]).filter(Boolean);
}

function field(doc, name, schema, value, changed) {
  const type = resolved(doc, schema);
  const id = `publish-field-${name}`;
  const on = { input: () => changed() };
  let input;
  let read;
  if (type.enum) {
    input = el("select", { id, on }, ...type.enum.map((one) => el("option", { text: String(one) })));
    read = () => type.enum[input.selectedIndex];
    input.selectedIndex = Math.max(0, type.enum.indexOf(value));
  } else if (type.type === "boolean") {
    input = el("input", { id, type: "checkbox", on });
    input.checked = value === true;
    read = () => input.checked;
  } else if (type.type === "string") {
    input = el("input", { id, value: value ?? "", autocomplete: "off", on });
    read = () => input.value;
  } else if (type.type === "integer" || type.type === "number") {
    input = el("input", { id, type: "number", step: "any", value: value ?? "", on });
    read = () => (input.value === "" ? null : Number(input.value));
  } else return null; // a field with parts of its own is written in the JSON
  return { name, read, node: el("div", { class: "field" }, el("label", { for: id, text: type.title ?? name }), input) };
}

/** Make fields for the type of the channel that `channel` names, in `place`; they write into `data`. */
export function typedForm(channel, place, data) {
  let shown = "";
  const show = (doc, message) => {
    const schema = resolved(doc, message.payload);
    const example = message.examples?.[0]?.payload ?? {};
    let fields = [];
    const write = () => {
      let value;
      try {
        value = JSON.parse(data.value);
      } catch {
        value = {};
      }
      for (const one of fields) value[one.name] = one.read();
      data.value = JSON.stringify(value, null, 2);
    };
    fields = Object.entries(schema.properties ?? {}).map(([name, inner]) => field(doc, name, inner, example[name], write)).filter(Boolean);
    data.value = JSON.stringify(example, null, 2);
    return fields.map((one) => one.node);
  };
  const refresh = async () => {
    const doc = await get("types").catch(() => ({}));
    const found = messages(doc, channel.value).filter((one) => one.payload && Object.keys(one.payload).length);
    const key = found.map((one) => one.name).join();
    if (key === shown) return;
    shown = key;
    if (!found.length) {
      place.replaceChildren();
      return;
    }
    const body = el("div", {}, ...show(doc, found[0]));
    const choose = el("select", { id: "publish-type", on: { change: () => body.replaceChildren(...show(doc, found[choose.selectedIndex])) } }, ...found.map((one) => el("option", { text: one.title ?? one.name })));
    place.replaceChildren(el("div", { class: "field" }, el("label", { for: "publish-type", text: "Type" }), choose), body);
  };
  channel.addEventListener("change", refresh);
}
