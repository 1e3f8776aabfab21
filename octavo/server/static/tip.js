// The one tooltip of the page.

import { el } from "./dom.js";

const element = document.getElementById("tip");

export const tip = {
  /** `lines` are [colour or null, text] pairs; the first is the heading. */
  show(lines, { x, y }) {
    element.replaceChildren(
      ...lines.map(([colour, text], index) => {
        const line = el("div", { class: index === 0 ? "tip-head" : "" });
        if (colour) {
          const swatch = el("span", { class: "swatch" });
          swatch.style.background = colour;
          line.append(swatch);
        }
        line.append(text);
        return line;
      }),
    );
    element.hidden = false;
    const box = element.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8));
    const below = y + 18 + box.height < innerHeight;
    element.style.left = `${left}px`;
    element.style.top = `${below ? y + 18 : Math.max(8, y - box.height - 12)}px`;
  },
  hide() {
    element.hidden = true;
  },
};
