// Starts the page's parts, and follows its address.

import { close, open, startPane } from "./pane.js";
import { startPlots } from "./plots.js";
import { loadRows } from "./rows.js";
import { showErrors, startTable } from "./table.js";

function follow() {
  const { hash } = location;
  if (hash.startsWith("#item/")) return open(hash);
  close();
  if (hash.startsWith("#error/")) showErrors(decodeURIComponent(hash.slice(7)) || "unnamed");
}

startPlots();
await loadRows();
startTable();
startPane();
follow();
addEventListener("hashchange", follow);
document.documentElement.dataset.ready = "";
