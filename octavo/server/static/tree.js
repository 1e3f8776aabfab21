// The Prefixes view: the tree of cached blocks.

import { inkName } from "./colours.js";
import { $, el, setText } from "./dom.js";
import { count, oneLine, plural } from "./format.js";

const SHEETS = 12; // Sheets drawn of an edge.

/** Text with what only the template writes set smaller. */
function parts(text) {
  return text
    .split(/(<\|[^|<>]{1,40}\|>|<\/?[a-z_]{1,20}>|\r?\n|\t)/)
    .filter(Boolean)
    .map((part) => (/^[<\n\r\t]/.test(part) ? el("span", { class: "special" }, oneLine(part)) : part));
}

export class TreeView {
  constructor() {
    this.tree = null;
    this.hello = null;
    this.cells = [];
    this.closed = new Set();
    this.isShown = false;
  }

  begin(hello) {
    this.hello = hello;
    setText(
      $("tree-note"),
      "Prompts that begin alike share blocks. An edge is a run of blocks; what branches off differs from there on. " +
        (hello.shows_text
          ? "The words are the first of each edge."
          : "Words are not shown: the server was started without --page-show-text."),
    );
  }

  /** `cells` are those of the state that came with the tree, so that colours and counts agree. */
  update(tree, cells) {
    this.tree = tree;
    this.cells = cells;
    this.draw();
  }

  show(isShown) {
    this.isShown = isShown;
    if (isShown) this.draw();
  }

  draw() {
    if (!this.isShown || !this.tree) return;
    const { nodes, num_hidden: hidden } = this.tree;
    const blocks = nodes.reduce((sum, node) => sum + node.num_blocks, 0);
    const shared = nodes.reduce((sum, node) => sum + (node.num_holders > 1 ? node.num_blocks : 0), 0);
    const parts = [plural(nodes.length, "edge"), plural(blocks, "block"), `${count(shared)} shared now`];
    if (hidden) parts.push(`${count(hidden)} more edges not shown`);
    setText($("tree-figures"), nodes.length ? parts.join(" · ") : "empty");
    const focused = document.activeElement?.closest?.(".node")?.dataset.path;
    const items = [];
    const paths = [];
    const lists = new Map([[-1, { own: null, children: [] }]]);
    nodes.forEach((node, index) => {
      paths.push(`${node.parent >= 0 ? paths[node.parent] : ""}/${node.cell}`);
      lists.set(index, { own: node, children: [] });
      lists.get(node.parent).children.push(index);
    });
    const make = (index) => {
      const { own, children } = lists.get(index);
      const row = this.#edge(own);
      const item = el("li", { class: "node" });
      item.dataset.path = paths[index];
      if (children.length === 0) item.append(el("div", { class: "leaf", tabIndex: 0 }, row));
      else {
        const details = el("details", { open: !this.closed.has(paths[index]) }, el("summary", {}, row));
        details.append(el("ul", {}, ...children.map(make)));
        details.addEventListener("toggle", () => {
          if (details.open) this.closed.delete(paths[index]);
          else this.closed.add(paths[index]);
        });
        item.append(details);
      }
      return item;
    };
    for (const index of lists.get(-1).children) items.push(make(index));
    if (!items.length) items.push(el("li", { class: "note" }, "Nothing is cached yet. A prompt of 16 tokens or more leaves its blocks here."));
    $("prefixes").replaceChildren(...items);
    if (focused) {
      const again = [...$("prefixes").querySelectorAll(".node")].find((node) => node.dataset.path === focused);
      again?.querySelector("summary, .leaf")?.focus({ preventScroll: true });
    }
  }

  #edge(node) {
    const sheets = el("span", { class: "sheets", "aria-hidden": "true" });
    for (let index = 0; index < Math.min(node.num_blocks, SHEETS); index += 1) sheets.append(el("span", { class: "sheet" }));
    if (node.num_blocks > SHEETS) sheets.append(el("span", { class: "sheets-more" }, `+${count(node.num_blocks - SHEETS)}`));
    const tokens = node.num_blocks * 16;
    const words = node.text ? el("q", { class: "words", title: node.text }, ...parts(node.text), tokens > 16 ? "…" : "") : null;
    const holders = node.num_holders ? `held by ${count(node.num_holders)}` : "free, kept";
    const row = el(
      "span",
      { class: `edge${node.num_holders ? " held" : ""}` },
      sheets,
      words,
      el("span", { class: "edge-note" }, `${plural(node.num_blocks, "block")}, ${plural(tokens, "token")}`),
      el("span", { class: node.num_holders > 1 ? "tag own" : "tag" }, holders),
    );
    this.#colour(sheets, node);
    return row;
  }

  /** Stripes in the colours of the sequences that hold the edge. */
  #colour(sheets, node) {
    const holders = node.num_holders ? (this.cells[node.cell]?.sequences ?? []).slice(0, 4) : [];
    const stops = holders.map(({ request_id: id }, index) => {
      const [from, to] = [index, index + 1].map((at) => `${(100 * at) / holders.length}%`);
      return `${inkName(id)} ${from} ${to}`;
    });
    const paint = holders.length ? `linear-gradient(to right, ${stops.join(", ")})` : "";
    for (const sheet of sheets.querySelectorAll(".sheet")) sheet.style.backgroundImage = paint;
  }
}
