// The plots: drawn when they come near, again when the colours change.

import { unpackScript } from "./packed.js";
import { colour, onTheme } from "./theme.js";

const CONFIG = { displayModeBar: false, responsive: true, showTips: false };
const drawn = new Set();
let library;

function plotly() {
  library ??= unpackScript("plotly").then(
    (blob) =>
      new Promise((loaded, failed) => {
        const script = document.createElement("script");
        script.src = URL.createObjectURL(blob);
        script.onload = () => {
          URL.revokeObjectURL(script.src);
          loaded(window.Plotly);
        };
        script.onerror = () => failed(new Error("plotly.js could not be loaded"));
        document.head.append(script);
      }),
  );
  return library;
}

function coloured(value) {
  if (typeof value === "string") return value.startsWith("var(--") ? colour(value) : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each)]));
}

async function draw(place) {
  const figure = JSON.parse(document.getElementById(`figure-${place.dataset.figure}`).textContent);
  const library = await plotly();
  await library.react(place, coloured(figure.data), coloured(figure.layout), CONFIG);
  drawn.add(place);
}

export function startPlots() {
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  document.querySelectorAll("[data-figure]").forEach((place) => near.observe(place));
  onTheme(() => drawn.forEach(draw));
}
