// Colours of sequences: a dozen inks of the same weight. A sequence keeps its own while it runs.

const NUM_INKS = 12;
// Neighbours in order of arrival are far apart on the wheel.
const ORDER = [0, 5, 9, 3, 7, 11, 1, 6, 4, 10, 2, 8];
const given = new Map();

/** Give each id that is new the ink that is used least; forget those that are gone. */
export function assign(ids) {
  const present = new Set(ids);
  for (const id of given.keys()) if (!present.has(id)) given.delete(id);
  const used = new Array(NUM_INKS).fill(0);
  for (const ink of given.values()) used[ink] += 1;
  for (const id of ids) {
    if (given.has(id)) continue;
    const ink = ORDER.reduce((best, each) => (used[each] < used[best] ? each : best));
    used[ink] += 1;
    given.set(id, ink);
  }
}

export const inkOf = (id) => given.get(id) ?? 0;
export const inkName = (id) => `var(--ink-${inkOf(id)})`;

let palette = null;

/** The page's colours as a canvas takes them. */
export function colours() {
  if (palette) return palette;
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const resolve = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  palette = {};
  for (const name of ["paper", "sheet", "text", "soft", "faint", "rule", "rubric", "kept", "kept-slot", "blank"])
    palette[name] = resolve(name);
  palette.inks = Array.from({ length: NUM_INKS }, (_, ink) => resolve(`ink-${ink}`));
  probe.remove();
  return palette;
}

const listeners = [];

/** Called when the theme, and so every colour of a canvas, changes. */
export const onThemeChange = (listener) => listeners.push(listener);

export function themeChanged() {
  palette = null;
  for (const listener of listeners) listener();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
