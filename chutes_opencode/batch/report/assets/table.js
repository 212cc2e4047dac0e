// The table of items, a page at a time.

import { count, dollars, seconds } from "./format.js";
import { data } from "./packed.js";
import { matching, readAllTexts, rows, sorted } from "./rows.js";

const PAGE = 25; // page.py keeps their room free
const COLUMNS = [
  { key: "id", title: "Item" },
  { key: "failed", title: "Status" },
  { key: "model", title: "Model", less: true },
  { key: "latency", title: "Latency", number: true, show: (row) => seconds(row.latency) },
  { key: "first", title: "First token", number: true, less: true, show: (row) => seconds(row.first) },
  { key: "input", title: "In", number: true, less: true, show: (row) => count(row.input) },
  { key: "output", title: "Out", number: true, less: true, show: (row) => count(row.output) },
  { key: "cost", title: "Cost", number: true, show: (row) => dollars(row.cost) },
];

const element = (id) => document.getElementById(id);
// At first in the order in which they ended, which no column has.
const state = { query: "", status: "", model: "", key: "n", descending: false, page: 0 };
let found = [];

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const hashOf = (row) => `#item/${row.n}/${encodeURIComponent(row.id)}`;

function itemCell(row) {
  const id = make("a", { href: hashOf(row) }, row.id);
  const sample = row.sample ? make("small", { className: "sample" }, ` sample ${row.sample}`) : "";
  const excerpt = make("small", { className: "excerpt" }, row.excerpt || " ");
  return make("th", { scope: "row", role: "rowheader" }, id, sample, excerpt);
}

function cell(column, row) {
  if (column.key === "id") return itemCell(row);
  if (column.key === "failed") {
    const told = row.failed ? data.errors[row.error] ?? "failed" : "done";
    return make("td", { role: "cell", className: row.failed ? "status failed" : "status ok" }, make("span", {}, told));
  }
  if (column.key === "model") return make("td", { role: "cell", className: "model less" }, data.models[row.model] ?? "");
  return make("td", { role: "cell", className: column.less ? "number less" : "number" }, column.show(row));
}

function heading(column) {
  const button = make("button", { type: "button" }, column.title);
  button.addEventListener("click", () => {
    const again = state.key === column.key;
    Object.assign(state, { key: column.key, descending: again ? !state.descending : Boolean(column.number), page: 0 });
    refresh();
  });
  const classes = [column.number && "number", column.less && "less"].filter(Boolean).join(" ");
  const made = make("th", { scope: "col", role: "columnheader", className: classes }, button);
  made.dataset.key = column.key;
  return made;
}

function showPage() {
  const begin = state.page * PAGE;
  const shown = found.slice(begin, begin + PAGE);
  element("table").tBodies[0].replaceChildren(
    ...shown.map((row) => make("tr", { role: "row" }, ...COLUMNS.map((each) => cell(each, row)))),
  );
  element("shown").textContent = found.length
    ? `${count(begin + 1)}–${count(begin + shown.length)} of ${count(found.length)}`
    : "";
  element("pages").hidden = found.length <= PAGE;
  element("back").disabled = state.page === 0;
  element("forth").disabled = begin + PAGE >= found.length;
  for (const each of element("table").tHead.rows[0].cells) {
    const active = each.dataset.key === state.key;
    if (active) each.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else each.removeAttribute("aria-sort");
  }
}

function say(more = "") {
  const all = rows.length;
  const items = all === 1 ? "item" : "items";
  const told = found.length === all ? `${count(all)} ${items}` : `${count(found.length)} of ${count(all)} ${items}`;
  element("found").textContent = (all ? told : "No item has a result yet.") + more;
}

function refresh(more) {
  found = sorted(matching(state), state.key, state.descending);
  showPage();
  say(more);
}

// What is found by id and beginnings is shown at once, the rest as the texts are read.
async function search(query) {
  Object.assign(state, { query, page: 0 });
  refresh();
  if (!query.trim() || !data.textParts) return;
  let last = performance.now();
  await readAllTexts((share) => {
    if (state.query !== query || performance.now() - last < 300) return;
    last = performance.now();
    refresh(` · reading the texts, ${Math.round(100 * share)} %`);
  });
  if (state.query === query) refresh();
}

function turn(pages) {
  state.page += pages;
  showPage();
  element("items").scrollIntoView();
}

function choices() {
  const failed = data.errors.map((name, number) => make("option", { value: `error/${number}` }, `Failed: ${name}`));
  element("status").append(
    make("option", { value: "" }, "All"), make("option", { value: "ok" }, "Done"),
    make("option", { value: "failed" }, "Failed"), ...failed,
  );
  element("model").append(
    make("option", { value: "" }, "All"),
    ...data.models.map((name, number) => make("option", { value: String(number) }, name)),
  );
}

export function neighbour(row, step) {
  return found[found.indexOf(row) + step];
}

// Show the failures of one class.
export function showErrors(name) {
  const number = data.errors.indexOf(name);
  element("search").value = "";
  element("status").value = number < 0 ? "failed" : `error/${number}`;
  Object.assign(state, { query: "", status: element("status").value, page: 0 });
  refresh();
  element("items").scrollIntoView();
}

export function startTable() {
  choices();
  element("table").tHead.rows[0].append(...COLUMNS.map(heading));
  let waiting;
  element("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 150, event.target.value);
  });
  for (const key of ["status", "model"]) {
    element(key).addEventListener("change", (event) => {
      Object.assign(state, { [key]: event.target.value, page: 0 });
      refresh();
    });
  }
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("back").addEventListener("click", () => turn(-1));
  element("forth").addEventListener("click", () => turn(1));
  refresh();
}
