// A sheet of sixteen pages that fills as tokens come: what one KV block holds.

import { svg } from "./dom.js";

export class Folio {
  constructor() {
    this.pages = Array.from({ length: 16 }, (_, index) =>
      svg("rect", { x: 1 + (index % 4) * 4.5, y: 1 + Math.floor(index / 4) * 4.5, width: 3.5, height: 3.5, rx: 0.6 }),
    );
    this.element = svg("svg", { class: "folio", viewBox: "0 0 19 19", "aria-hidden": "true" }, ...this.pages);
  }

  /** Show so many tokens: the pages of the last sheet. */
  show(tokens) {
    const filled = tokens === 0 ? 0 : ((tokens - 1) % 16) + 1;
    this.pages.forEach((page, index) => page.classList.toggle("filled", index < filled));
  }
}
