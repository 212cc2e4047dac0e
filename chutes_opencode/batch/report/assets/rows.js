// The items: read once, filtered, searched and sorted.

import { data, texts, unpackJson } from "./packed.js";

// The order of a packed row's values; embedding.py writes them.
const FIELDS = [
  "n", "id", "model", "sample", "failed", "error", "latency", "first",
  "input", "output", "cost", "started", "part", "excerpt",
];

export let rows = [];

export async function loadRows() {
  const ids = Array.from({ length: data.rowParts }, (_, number) => `rows-${number}`);
  const parts = await Promise.all(ids.map(unpackJson));
  rows = parts.flat().map((values) => Object.fromEntries(FIELDS.map((key, place) => [key, values[place]])));
  rows.sort((one, other) => one.n - other.n);
}

// Words, each of which must occur; what stands in quotes is one.
export function words(query) {
  const found = query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g);
  return Array.from(found, (match) => match[1] ?? match[2]);
}

function shortText(row) {
  row.short ??= `${row.id}\n${row.excerpt}\n${data.errors[row.error] ?? ""}\n${data.models[row.model] ?? ""}`.toLowerCase();
  return row.short;
}

function strings(value, into) {
  if (typeof value === "string") into.push(value);
  else if (value && typeof value === "object") Object.values(value).forEach((each) => strings(each, into));
  return into;
}

const long = new Map(); // position → all that is known of an item, lower case
let reading;

async function readTexts(progress) {
  for (let part = 0; part < data.textParts; part += 1) {
    for (const item of await unpackJson(`texts-${part}`)) {
      long.set(item.n, strings(item, []).join("\n").toLowerCase());
    }
    progress((part + 1) / data.textParts);
  }
}

// Read all texts, once; `progress` is told how far that is.
const listeners = new Set();
export async function readAllTexts(progress) {
  listeners.add(progress);
  reading ??= readTexts((share) => listeners.forEach((each) => each(share)));
  await reading;
  listeners.delete(progress);
}

export function matching({ query, status, model }) {
  const wanted = words(query);
  return rows.filter((row) => {
    if (status === "ok" && row.failed) return false;
    if (status === "failed" && !row.failed) return false;
    if (status.startsWith("error/") && row.error !== Number(status.slice(6))) return false;
    if (model !== "" && row.model !== Number(model)) return false;
    if (wanted.length === 0) return true;
    const short = shortText(row);
    const whole = long.get(row.n) ?? "";
    return wanted.every((word) => short.includes(word) || whole.includes(word));
  });
}

const byNumber = new Intl.Collator("en", { numeric: true }); // item-9 before item-10

export function sorted(found, key, descending) {
  const sign = descending ? -1 : 1;
  const texts = key === "id";
  return found.toSorted((one, other) => {
    const [a, b] = [one[key], other[key]];
    if (a === b) return one.n - other.n;
    if (a === null) return 1; // what is unknown comes last, either way
    if (b === null) return -1;
    return sign * (texts ? byNumber.compare(a, b) : a - b);
  });
}

export async function textsOf(row) {
  return (await texts(row.part)).find((item) => item.n === row.n);
}
