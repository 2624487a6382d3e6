// A message as a table of its fields, and as the schema that it comes from.

import { el } from "../dom.js";

const LIMITS = {
  minLength: "at least {} characters", maxLength: "at most {} characters", pattern: "matches {}",
  minimum: "≥ {}", exclusiveMinimum: "> {}", maximum: "≤ {}", exclusiveMaximum: "< {}", multipleOf: "a multiple of {}",
  minItems: "at least {} items", maxItems: "at most {} items",
};
const DEEPEST = 3;

/** The content of a field, in a few words. */
export function kindOf(doc, schema) {
  if (schema === true || schema === undefined) return "any";
  if (schema.$ref) return doc.resolved(schema).title;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (choices) return choices.map((one) => kindOf(doc, one)).join(" | ");
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "array") return `list of ${listed(doc, schema)}`;
  if (schema.type === "object" && !schema.properties) return `object of ${kindOf(doc, schema.additionalProperties)}`;
  return schema.format ?? schema.type ?? "any";
}

function listed(doc, { items, prefixItems }) {
  const each = prefixItems ?? (Array.isArray(items) ? items : null);
  return each ? each.map((item) => kindOf(doc, item)).join(", ") : kindOf(doc, items);
}

function notes(schema, isRequired) {
  const found = Object.entries(LIMITS)
    .filter(([name]) => schema[name] !== undefined)
    .map(([name, words]) => words.replace("{}", () => schema[name]));
  if (schema.default !== undefined) found.push(`default ${JSON.stringify(schema.default)}`);
  if (!isRequired && schema.default === undefined) found.push("optional");
  return found.join(", ");
}

/** The schemas that a schema refers to. */
function within(schema) {
  if (schema === null || typeof schema !== "object") return [];
  if (schema.$ref) return [schema];
  const inner = [schema.items, schema.prefixItems, schema.anyOf, schema.oneOf, schema.allOf, schema.additionalProperties];
  return inner.flat().flatMap((one) => within(one));
}

function fields(doc, schema, shown) {
  const { properties = {}, required = [] } = schema;
  const rows = Object.entries(properties).map(([name, field]) =>
    el("tr", {},
      el("th", { scope: "row" }, el("code", { text: name })),
      el("td", {}, el("span", { class: "kind", text: kindOf(doc, field) }),
        el("span", { class: "note", text: [notes(field, required.includes(name)), field.description].filter(Boolean).join(". ") }))));
  const table = el("div", { class: "wide-table" }, el("table", { class: "fields" }, el("tbody", {}, ...rows)));
  const deeper = Object.values(properties).flatMap((field) => within(field)).filter(({ $ref }) => !shown.includes($ref));
  const known = [...new Map(deeper.map((one) => [one.$ref, one])).values()];
  if (shown.length >= DEEPEST) return [table];
  return [table, ...known.flatMap((one) => {
    const inner = doc.resolved(one);
    if (!inner.properties) return [];
    return [el("h5", { text: inner.title }), ...fields(doc, inner, [...shown, one.$ref])];
  })];
}

function folded(title, value) {
  const text = JSON.stringify(value, null, 2);
  return el("details", { class: "folded" }, el("summary", { text: title }),
    el("pre", { class: "code", tabindex: "0", role: "region", "aria-label": title, text }));
}

/** One message: its name, its fields, an example. */
export function showMessage(doc, { name, schema, examples }) {
  const inner = doc.resolved(schema);
  const isAny = Object.keys(schema).length === 0;
  const parts = [el("h4", {}, el("span", { class: "type", text: isAny ? "Any JSON" : name }))];
  if (inner.description) parts.push(el("p", { class: "hint", text: inner.description }));
  if (inner.properties) parts.push(...fields(doc, inner, [schema.$ref]));
  else if (!isAny) parts.push(el("p", {}, el("span", { class: "kind", text: kindOf(doc, inner) })));
  for (const { payload } of examples.slice(0, 1)) parts.push(folded(`Example of ${name}`, payload));
  if (!isAny) parts.push(folded(`JSON Schema of ${name}`, inner));
  return el("div", { class: "message" }, ...parts);
}
