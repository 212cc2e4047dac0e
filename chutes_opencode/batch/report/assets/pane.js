// The pane that shows one item whole. All that models and users wrote goes in as text.

import { count, dollars, moment, seconds } from "./format.js";
import { data } from "./packed.js";
import { rows, textsOf } from "./rows.js";
import { hashOf, make, neighbour } from "./table.js";

const pane = document.getElementById("pane");
let asked = 0;

const pre = (text, className = "") => make("pre", { className, tabIndex: 0 }, text);

function block(title, ...content) {
  return make("section", {}, make("h3", {}, title), ...content);
}

function figures(row, item) {
  const told = [
    ["Status", row.failed ? data.errors[row.error] ?? "failed" : "done"],
    ["Model", data.models[row.model] + (item?.served && item.served !== data.models[row.model] ? ` (answered by ${item.served})` : "")],
    ["Latency", seconds(row.latency) + (item?.queued ? `, after ${seconds(item.queued)} in the queue` : "")],
    ["First token", seconds(row.first)],
    ["Tokens", `${count(row.input)} in, ${count(row.output)} out`],
    ["Cost", dollars(row.cost)],
    ["Started", moment(row.started)],
    ["Tries", item?.tries ? count(item.tries) + (item.retries ? `, ${count(item.retries)} retries in them` : "") : ""],
    ["Finish reason", item?.finish],
    ["Session", item?.session],
  ];
  const pairs = told.filter(([, value]) => value);
  return make("dl", { className: "facts" }, ...pairs.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
}

function errorBlock(error) {
  const told = [make("p", { className: "message" }, error.message ?? "no message")];
  if (error.hint) told.push(make("p", { className: "hint" }, error.hint));
  const ids = [error.status && `HTTP ${error.status}`, error.request && `request ${error.request}`].filter(Boolean);
  if (ids.length) told.push(make("p", { className: "note" }, ids.join(", ")));
  if (error.partial) told.push(make("h4", {}, "What the model had written"), pre(error.partial));
  const made = block(error.type ?? "Error", ...told);
  made.className = "trouble";
  return made;
}

function part(each) {
  if (each.kind === "text") return pre(each.text, "text");
  if (each.kind === "thinking") {
    return make("details", {}, make("summary", {}, "Thinking"), pre(each.text, "text"));
  }
  const failed = each.error || each.status === "error";
  const title = make("summary", {}, make("code", {}, each.tool), ` ${failed ? "failed" : each.status ?? ""}`);
  const made = make("details", { className: failed ? "tool failed" : "tool", open: Boolean(failed) }, title);
  if (each.input) made.append(make("h5", {}, "Arguments"), pre(each.input));
  if (each.output) made.append(make("h5", {}, "Output"), pre(each.output));
  if (each.error) made.append(make("h5", {}, "Error"), pre(each.error));
  return made;
}

function message(each) {
  const made = make("article", { className: `said ${each.role === "user" ? "user" : "assistant"}` });
  made.append(make("h4", {}, each.role === "user" ? "User" : each.role === "assistant" ? "Assistant" : each.role ?? ""));
  made.append(...(each.parts ?? []).map(part));
  if (each.error) made.append(pre(each.error, "trouble"));
  return made;
}

function tries(attempts) {
  const rows = attempts.map((each, number) =>
    make(
      "tr", {},
      make("th", { scope: "row" }, `${number + 1}. ${each.scope ?? ""}`),
      make("td", { className: "wide" }, each.error ?? "done"),
      make("td", { className: "number" }, seconds(each.seconds ?? null)),
      make("td", { className: "number" }, dollars(each.cost ?? null)),
    ),
  );
  const heads = ["Try", "Came to", "Took", "Cost"];
  const titles = heads.map((title, number) => make("th", { scope: "col", className: number > 1 ? "number" : "" }, title));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows)));
}

function body(row, item) {
  const parts = [figures(row, item)];
  if (item === undefined) {
    const where = `${data.folder}/results.jsonl, line ${count(row.n + 1)}`;
    if (row.excerpt) parts.push(block("Its beginning", pre(row.excerpt, "text")));
    parts.push(make("p", { className: "note" }, "This item's texts are not in this page; they are in ", make("code", {}, where), "."));
    return parts;
  }
  if (item.error) parts.push(errorBlock(item.error));
  const said = item.messages ?? [];
  const last = said.findLast((each) => each.role === "assistant");
  const answer = (last?.parts ?? []).filter((each) => each.kind === "text").map((each) => each.text).join("");
  if (item.result && item.result !== answer) parts.push(block("Answer", pre(item.result, "text")));
  if (item.structured) parts.push(block("Structured answer", pre(item.structured)));
  if (said.length) parts.push(block("Transcript", ...said.map(message)));
  if (item.diff) parts.push(block("Changes in the repository", pre(item.diff)));
  if (item.attempts?.length > 1) parts.push(block("Tries", tries(item.attempts)));
  if (item.metadata) parts.push(block("Metadata", pre(item.metadata)));
  if (item.cut) parts.push(make("p", { className: "note" }, "Long texts are cut here; whole ones are in ", make("code", {}, `${data.folder}/${item.where ? "transcripts/" + item.where.replace(":", ", byte ") : "results.jsonl"}`), "."));
  return parts;
}

function go(label, row) {
  const button = make("button", { type: "button", disabled: !row }, label);
  button.addEventListener("click", () => location.replace(hashOf(row)));
  return button;
}

async function show(row) {
  const mine = ++asked;
  const item = await textsOf(row);
  if (mine !== asked) return;
  const close = make("button", { type: "button", className: "close" }, "Close");
  close.addEventListener("click", () => pane.close());
  const title = make("h2", { id: "pane-title", tabIndex: -1 }, row.id, row.sample ? ` sample ${row.sample}` : "");
  const bar = make("div", { className: "bar" }, go("Previous", neighbour(row, -1)), go("Next", neighbour(row, 1)), close);
  pane.firstElementChild.replaceChildren(make("header", {}, title, bar), make("div", { className: "body" }, ...body(row, item)));
  if (!pane.open) pane.showModal();
  pane.firstElementChild.scrollTop = 0;
  title.focus();
}

// Open what a link like #item/12/the-id names: the id counts where the file was made anew.
export function open(hash) {
  const [, position, id] = hash.slice(1).split("/");
  const named = decodeURIComponent(id ?? "");
  const exact = rows.find((row) => row.n === Number(position) && row.id === named);
  const row = exact ?? rows.find((each) => each.id === (named || decodeURIComponent(position)));
  if (row) show(row);
}

export function close() {
  asked += 1;
  if (pane.open) pane.close();
}

export function startPane() {
  pane.addEventListener("close", () => {
    if (location.hash.startsWith("#item/")) history.replaceState(null, "", location.pathname + location.search);
  });
  pane.addEventListener("click", (event) => {
    if (event.target === pane) pane.close();
  });
}
