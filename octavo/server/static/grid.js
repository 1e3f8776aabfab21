// The KV blocks as a grid: each a sheet of sixteen slots, in the colour of the sequences that hold it.

import { colours, inkName, inkOf, onThemeChange } from "./colours.js";
import { el } from "./dom.js";
import { count, plural, shortId } from "./format.js";

const SLOTS_FROM = 13; // Cells at least this wide show their slots.
const LARGEST = 28;
const SMALLEST = 5;
const SIDE = 4; // 4 x 4 slots in a block of 16 tokens.

/** What each cell shows, worked out once a state. */
export function readCells(state) {
  const holders = bytesOf(state.holders);
  const known = bytesOf(state.known);
  const cells = Array.from(holders, (held, index) => ({
    held,
    known: known[index] ?? 0,
    sequences: [],
    filled: 16 * state.blocks_per_cell,
  }));
  for (const sequence of state.running) {
    sequence.cells.forEach((cell, position) => {
      if (!cells[cell]) return;
      cells[cell].sequences.push(sequence);
      // Only the last blocks of a sequence that nobody else holds are partly filled.
      if (state.blocks_per_cell === 1)
        cells[cell].filled = Math.max(0, Math.min(16, sequence.num_computed - 16 * position));
    });
  }
  return cells;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export class Grid {
  /** `tip` shows what is under the pointer; `onPick(ids)` says whose blocks those are. */
  constructor(parent, { height, rows, tip, onPick = () => {} }) {
    this.height = height;
    this.leastRows = rows;
    this.tip = tip;
    this.onPick = onPick;
    this.state = null;
    this.cells = [];
    this.cursor = -1;
    this.picked = new Set();
    this.canvas = el("canvas", { tabIndex: 0, role: "img", "aria-label": "KV blocks" });
    this.description = el("p", { class: "hidden", "aria-live": "polite" });
    parent.append(this.canvas, this.description);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#leave());
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("blur", () => this.#leave());
    new ResizeObserver(() => this.draw()).observe(parent);
    onThemeChange(() => this.draw());
  }

  update(state, cells, numBlocks) {
    this.state = state;
    this.cells = cells;
    this.total = Math.ceil(numBlocks / state.blocks_per_cell);
    const held = cells.filter((cell) => cell.held).length;
    this.canvas.setAttribute(
      "aria-label",
      `KV blocks: ${count(state.num_blocks - state.num_free)} of ${count(state.num_blocks)} held, ` +
        `${count(state.num_known)} known to the prefix cache, in ${held} cells. Arrow keys look at each.`,
    );
    this.draw();
    if (this.cursor >= 0) this.#show(this.cursor, this.tipAt);
  }

  /** Bring forward the blocks of these sequences; of none, all are alike. */
  pick(ids) {
    this.picked = new Set(ids);
    this.draw();
  }

  draw() {
    const width = this.canvas.parentElement.clientWidth;
    if (!this.state || width === 0) return;
    this.#fit(width);
    const rows = Math.ceil(this.numShown / this.columns);
    const scale = devicePixelRatio || 1;
    const [w, h] = [this.columns * this.size, rows * this.size];
    const { canvas } = this;
    if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
      canvas.width = Math.round(w * scale);
      canvas.height = Math.round(h * scale);
      canvas.style.width = `${w}px`;
      canvas.style.height = `${h}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, w, h);
    for (let index = 0; index < this.numShown; index += 1) this.#drawCell(context, index);
    if (this.cursor >= 0 && this.cursor < this.numShown) this.#drawCursor(context);
  }

  /** Sixteen cells to a row or a multiple, as large as the height allows, with room for what comes. */
  #fit(width) {
    for (this.columns = 16; ; this.columns += 16) {
      this.size = Math.floor((10 * width) / this.columns) / 10;
      let rows = this.leastRows;
      while (rows * this.columns < this.cells.length) rows *= 2;
      this.numShown = Math.min(rows * this.columns, this.total);
      const fits = this.size <= LARGEST && Math.ceil(this.numShown / this.columns) * this.size <= this.height;
      if (fits || this.size - 16 / this.columns < SMALLEST) return;
    }
  }

  #drawCell(context, index) {
    const palette = colours();
    const [x, y] = this.#corner(index);
    const gap = this.size >= 9 ? Math.max(1.5, this.size * 0.12) : 1;
    const side = this.size - gap;
    const cell = this.cells[index];
    context.globalAlpha = 1;
    if (!cell || (!cell.held && !cell.known)) {
      context.fillStyle = palette.blank;
      fillSheet(context, x, y, side);
      return;
    }
    if (!cell.held) {
      context.fillStyle = palette.kept;
      fillSheet(context, x, y, side);
      if (this.size >= SLOTS_FROM) fillSlots(context, x, y, side, 16, () => palette["kept-slot"]);
      return;
    }
    const inks = cell.sequences.length
      ? cell.sequences.slice(0, SIDE).map((sequence) => palette.inks[inkOf(sequence.request_id)])
      : [palette.soft];
    const isPicked = cell.sequences.some((sequence) => this.picked.has(sequence.request_id));
    const dim = this.picked.size > 0 && !isPicked ? 0.22 : 1;
    const columnInk = (column) => inks[Math.floor((column * inks.length) / SIDE)];
    if (this.size >= SLOTS_FROM) {
      context.globalAlpha = 0.24 * dim;
      paintColumns(context, x, y, side, inks);
      context.globalAlpha = dim;
      fillSlots(context, x, y, side, cell.filled, columnInk);
    } else {
      context.globalAlpha = 0.3 * dim;
      paintColumns(context, x, y, side, inks);
      context.globalAlpha = dim;
      context.save();
      context.beginPath();
      context.rect(x, y, side, (side * Math.min(16, cell.filled)) / 16);
      context.clip();
      paintColumns(context, x, y, side, inks);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  #drawCursor(context) {
    const palette = colours();
    const [x, y] = this.#corner(this.cursor);
    context.strokeStyle = palette.text;
    context.lineWidth = 1.5;
    context.strokeRect(x - 0.5, y - 0.5, this.size, this.size);
  }

  #corner(index) {
    return [(index % this.columns) * this.size + 0.75, Math.floor(index / this.columns) * this.size + 0.75];
  }

  #point(event) {
    if (!this.state) return;
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.size);
    const row = Math.floor((event.clientY - box.top) / this.size);
    const index = row * this.columns + column;
    if (column < 0 || column >= this.columns || index < 0 || index >= this.numShown) this.#leave();
    else this.#show(index, { x: event.clientX, y: event.clientY });
  }

  #key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    if (event.key === "Escape") return this.#leave();
    if (!(event.key in steps) || !this.state) return;
    event.preventDefault();
    const index = this.cursor < 0 ? 0 : this.cursor + steps[event.key];
    if (index < 0 || index >= this.numShown) return;
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor(index / this.columns) + 1;
    this.#show(index, { x: box.left + ((index % this.columns) + 0.5) * this.size, y: box.top + row * this.size });
    this.description.textContent = this.#lines(index).map(([, text]) => text).join(", ");
  }

  #show(index, at) {
    const moved = index !== this.cursor;
    this.cursor = index;
    this.tipAt = at;
    this.tip.show(this.#lines(index), at);
    if (moved) {
      this.onPick((this.cells[index]?.sequences ?? []).map((sequence) => sequence.request_id));
      this.draw();
    }
  }

  #leave() {
    if (this.cursor < 0) return;
    this.cursor = -1;
    this.tip.hide();
    this.onPick([]);
    this.draw();
  }

  /** What there is to say of a cell, as [colour, text] pairs. */
  #lines(index) {
    const { blocks_per_cell: perCell, num_blocks: numBlocks } = this.state;
    const first = index * perCell;
    const last = Math.min(first + perCell, numBlocks) - 1;
    const lines = [[null, perCell === 1 ? `Block ${count(first)}` : `Blocks ${count(first)} to ${count(last)}`]];
    const cell = this.cells[index];
    if (!cell || (!cell.held && !cell.known)) {
      lines.push([null, "free, holds nothing"]);
      return lines;
    }
    if (!cell.held) lines.push([null, "free, kept in the prefix cache"]);
    else {
      const slots = perCell === 1 ? `, ${Math.min(16, cell.filled)} of 16 slots filled` : "";
      const who = cell.held > 1 ? `shared by ${plural(cell.held, "sequence")}` : "held by one sequence";
      lines.push([null, `${who}${slots}`]);
      for (const { request_id: id } of cell.sequences.slice(0, 4)) lines.push([inkName(id), shortId(id)]);
      if (cell.sequences.length > 4) lines.push([null, `and ${cell.sequences.length - 4} more`]);
      if (cell.known) lines.push([null, "known to the prefix cache"]);
    }
    return lines;
  }
}

function fillSheet(context, x, y, side) {
  context.beginPath();
  context.roundRect(x, y, side, side, side * 0.14);
  context.fill();
}

function paintColumns(context, x, y, side, inks) {
  context.save();
  context.beginPath();
  context.roundRect(x, y, side, side, side * 0.14);
  context.clip();
  const width = side / inks.length;
  inks.forEach((ink, column) => {
    context.fillStyle = ink;
    context.fillRect(x + column * width, y, width + 0.5, side);
  });
  context.restore();
}

function fillSlots(context, x, y, side, filled, columnInk) {
  const pad = side * 0.09;
  const pitch = (side - 2 * pad) / SIDE;
  const slot = pitch * 0.78;
  const offset = pad + (pitch - slot) / 2;
  for (let index = 0; index < filled && index < 16; index += 1) {
    const column = index % SIDE;
    context.fillStyle = columnInk(column);
    context.fillRect(x + offset + column * pitch, y + offset + Math.floor(index / SIDE) * pitch, slot, slot);
  }
}
