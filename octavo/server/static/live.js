// The Live view: figures, blocks, batch, queue and charts.

import { inkName } from "./colours.js";
import { Chart } from "./chart.js";
import { $, el, reconcile, setText } from "./dom.js";
import { bytes, count, plural, rate, seconds, shortId } from "./format.js";
import { Grid } from "./grid.js";
import { tip } from "./tip.js";

const QUEUE_ROWS = 16;
const BATCH_ROWS = 64;
const SPANS = [
  [60, "1 min"],
  [300, "5 min"],
  [600, "10 min"],
];

const tile = (parent, name) => {
  const value = el("dd");
  const note = el("dd", { class: "tile-note" });
  parent.append(el("div", { class: "tile" }, el("dt", {}, name), value, note));
  return (text, more = "") => {
    setText(value, text);
    setText(note, more);
  };
};

export class LiveView {
  constructor(isOwn) {
    this.isOwn = isOwn;
    this.seconds = [];
    this.span = 60;
    this.isChosen = false;
    this.hello = null;
    const tiles = $("tiles");
    this.tiles = {
      generated: tile(tiles, "Generated"),
      prefill: tile(tiles, "Prefill"),
      running: tile(tiles, "Running"),
      queued: tile(tiles, "Queued"),
      held: tile(tiles, "KV in use"),
      kept: tile(tiles, "Prefix cache"),
    };
    this.grid = new Grid($("grid"), { height: 380, rows: 8, tip, onPick: (ids) => this.#mark(ids) });
    for (const [name, text] of [
      ["own", "one sequence’s"],
      ["shared", "shared, a stripe for each"],
      ["kept", "free, kept in the cache"],
      ["blank", "free"],
    ])
      $("legend").append(el("li", {}, el("span", { class: `legend-cell legend-${name}` }), text));
    const latency = (field) => [
      { name: "median", of: (second) => second[field]?.median ?? null, style: "line" },
      { name: "95th", of: (second) => second[field]?.p95 ?? null, style: "faint" },
    ];
    const charts = $("charts");
    this.charts = [
      new Chart(charts, {
        title: "Generated tokens per second",
        series: [{ name: "generated", of: (second) => second.generated, style: "area" }],
        format: rate,
        empty: "",
      }),
      new Chart(charts, {
        title: "Prefill tokens per second",
        series: [{ name: "prefill", of: (second) => second.prefill, style: "area" }],
        format: rate,
        empty: "",
      }),
      new Chart(charts, {
        title: "Time to first token",
        series: latency("ttft"),
        format: seconds,
        empty: "no request has begun",
      }),
      new Chart(charts, {
        title: "Time between tokens",
        series: latency("gap"),
        format: seconds,
        empty: "no token has come",
      }),
    ];
    this.#spans();
  }

  #spans() {
    for (const [span, name] of SPANS) {
      const button = el("button", { type: "button", role: "radio", class: "segment" }, name);
      button.addEventListener("click", () => {
        this.isChosen = true;
        this.#setSpan(span);
      });
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const index = SPANS.findIndex(([each]) => each === this.span) + step;
        this.isChosen = true;
        this.#setSpan(SPANS[(index + SPANS.length) % SPANS.length][0]);
        $("span").querySelector("[aria-checked=true]").focus();
      });
      $("span").append(button);
    }
    this.#setSpan(this.span);
  }

  #setSpan(span) {
    this.span = span;
    SPANS.forEach(([each], index) => {
      const button = $("span").children[index];
      button.setAttribute("aria-checked", String(each === span));
      button.tabIndex = each === span ? 0 : -1;
    });
    for (const chart of this.charts) chart.update(this.seconds, span);
  }

  /** Until somebody chooses, one minute, and five as soon as there is more to see. */
  #drawCharts() {
    const { seconds } = this;
    const known = seconds.length ? seconds[seconds.length - 1].time - seconds[0].time : 0;
    if (!this.isChosen && this.span === 60 && known > 75) this.#setSpan(300);
    for (const chart of this.charts) chart.update(seconds, this.span);
  }

  begin(hello) {
    this.hello = hello;
    this.seconds = hello.seconds;
    this.#drawCharts();
  }

  second(second) {
    this.seconds.push(second);
    if (this.seconds.length > 600) this.seconds.shift();
    this.#drawCharts();
    this.tiles.generated(rate(second.generated), "tokens per second");
    this.tiles.prefill(rate(second.prefill), "tokens per second");
  }

  state(state, cells) {
    const { hello } = this;
    const held = state.num_blocks - state.num_free;
    if (!this.seconds.length) {
      this.tiles.generated("0", "tokens per second");
      this.tiles.prefill("0", "tokens per second");
    }
    this.tiles.running(count(state.num_running), `of at most ${count(hello.max_num_seqs)}`);
    this.tiles.queued(count(state.num_queued), state.num_queued ? `longest ${seconds(longest(state))}` : "nobody waits");
    const share = (100 * held) / state.num_blocks;
    this.tiles.held(`${share < 10 ? share.toFixed(1) : share.toFixed(0)} %`, `${plural(held, "block")} of ${count(state.num_blocks)}`);
    this.tiles.kept(count(state.num_known), `${state.num_known === 1 ? "block" : "blocks"} known`);
    this.grid.update(state, cells, hello.num_blocks);
    setText($("grid-figures"), gridFigures(state, this.grid.numShown, hello));
    this.#step(state);
    this.#batch(state);
    this.#queue(state);
  }

  #step(state) {
    const budget = this.hello.max_num_batched_tokens;
    setText(
      $("step-figures"),
      state.num_running ? `${plural(state.num_step_tokens, "token")} in this step, budget ${count(budget)}` : "idle",
    );
    reconcile(
      $("step"),
      state.running.filter((sequence) => sequence.num_new),
      (sequence) => sequence.request_id,
      (sequence) => {
        const part = el("span");
        part.style.background = inkName(sequence.request_id);
        return part;
      },
      (part, sequence) => {
        part.style.width = `${(100 * sequence.num_new) / state.num_step_tokens}%`;
      },
    );
  }

  #batch(state) {
    const rows = state.running.slice(0, BATCH_ROWS);
    reconcile($("batch"), rows, (each) => each.request_id, (each) => this.#row(each), updateRow);
    this.#more($("batch"), state.num_running - rows.length, "No sequence runs.");
  }

  #row({ request_id: id }) {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = inkName(id);
    const row = el(
      "li",
      { class: "sequence", tabIndex: 0 },
      el(
        "div",
        { class: "row-head" },
        swatch,
        el("span", { class: "id", title: id }, shortId(id)),
        this.isOwn(id) ? el("span", { class: "tag own" }, "yours") : null,
        el("span", { class: "phase" }),
        el("span", { class: "new" }),
      ),
      el("div", { class: "progress" }, el("span", { class: "prompt-part" }, el("span"), el("span")), el("span", { class: "output-part" }, el("span"))),
      el("div", { class: "row-note" }),
    );
    row.style.setProperty("--own-ink", inkName(id));
    for (const name of ["pointerenter", "focus"]) row.addEventListener(name, () => this.grid.pick([id]));
    for (const name of ["pointerleave", "blur"]) row.addEventListener(name, () => this.grid.pick([]));
    return row;
  }

  #queue(state) {
    const rows = state.queued.slice(0, QUEUE_ROWS);
    setText($("queue-figures"), state.num_queued ? plural(state.num_queued, "sequence") : "empty");
    reconcile(
      $("queue"),
      rows,
      (each) => each.request_id,
      ({ request_id: id }) =>
        el(
          "li",
          { class: "queued" },
          el("span", { class: "id", title: id }, shortId(id)),
          this.isOwn(id) ? el("span", { class: "tag own" }, "yours") : null,
          el("span", { class: "tag", hidden: true }, "preempted"),
          el("span", { class: "row-note" }),
        ),
      (row, each) => {
        row.querySelector(".tag:not(.own)").hidden = !each.preempted;
        setText(row.lastChild, `${plural(each.num_tokens, "token")}, waits ${seconds(each.seconds)}`);
      },
    );
    this.#more($("queue"), state.num_queued - rows.length, "Nobody waits.");
  }

  #more(list, hidden, none) {
    const text = hidden > 0 ? `and ${count(hidden)} more` : list.childElementCount === 0 ? none : "";
    let note = list.nextElementSibling;
    if (!note) {
      note = el("p", { class: "note" });
      list.after(note);
    }
    note.hidden = !text;
    setText(note, text);
  }

  #mark(ids) {
    for (const row of $("batch").children) row.classList.toggle("marked", ids.includes(row.dataset.key));
  }
}

function updateRow(row, each) {
  const [, progress, note] = row.children;
  setText(row.querySelector(".phase"), each.phase);
  setText(row.querySelector(".new"), each.num_new ? `+${count(each.num_new)}` : "");
  const [prompt, output] = progress.children;
  const [cached, computed] = prompt.children;
  const done = Math.min(each.num_computed, each.num_prompt);
  cached.style.width = `${(100 * Math.min(each.num_cached, done)) / each.num_prompt}%`;
  computed.style.width = `${(100 * Math.max(0, done - each.num_cached)) / each.num_prompt}%`;
  const generated = each.num_tokens - each.num_prompt;
  const most = each.max_length - each.num_prompt;
  output.firstChild.style.width = `${(100 * generated) / Math.max(1, most)}%`;
  const fromCache = each.num_cached ? ` (${count(each.num_cached)} from the cache)` : "";
  setText(
    note,
    `prompt ${count(each.num_prompt)}${fromCache} · generated ${count(generated)} of at most ${count(most)} · ` +
      plural(each.num_blocks, "block"),
  );
}

const longest = (state) => Math.max(...state.queued.map((each) => each.seconds));

export function gridFigures(state, shown, hello) {
  const perCell = state.blocks_per_cell;
  const rest = hello.num_blocks - shown * perCell;
  const parts = [`${plural(state.num_blocks - state.num_free, "block")} held`, `${count(state.num_known)} cached`];
  if (perCell > 1) parts.push(`${perCell} blocks a cell`);
  if (rest > 0) parts.push(`${count(rest)} more never used`);
  parts.push(bytes(hello.kv_cache_bytes));
  return parts.join(" · ");
}
