// Light or dark: the system's, or as chosen.

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

// The colour that a name like "var(--ok)" stands for at present.
export function colour(name) {
  probe.style.color = name;
  return getComputedStyle(probe).color;
}

export function onTheme(changed) {
  document.getElementById("theme").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
