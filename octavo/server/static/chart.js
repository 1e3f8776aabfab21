// A line chart over the last minutes, on a canvas.

import { colours, onThemeChange } from "./colours.js";
import { el, setText } from "./dom.js";

const PAD = { left: 46, right: 8, top: 10, bottom: 20 };
const GAP_SECONDS = 6; // Seconds that nobody watched are not joined by a line.

export class Chart {
  /**
   * `series` are { name, of(second) -> number or null, style: "area" | "line" | "faint" }, the first being
   * the one that the heading quotes; `format` makes text of a value.
   */
  constructor(parent, { title, series, format, empty }) {
    this.series = series;
    this.format = format;
    this.empty = empty;
    this.title = title;
    this.points = [];
    this.span = 300;
    this.hover = null;
    this.figure = el("span", { class: "chart-value" });
    this.canvas = el("canvas", { role: "img", "aria-label": title });
    const keys = series.length > 1 ? el("span", { class: "chart-keys" }) : null;
    for (const each of keys ? series : [])
      keys.append(el("span", { class: `key key-${each.style}` }), `${each.name} `);
    this.element = el(
      "figure",
      { class: "chart" },
      el("figcaption", {}, el("span", { class: "chart-title" }, title), keys, this.figure),
      this.canvas,
    );
    parent.append(this.element);
    this.canvas.addEventListener("pointermove", (event) => {
      this.hover = event.offsetX;
      this.draw();
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.hover = null;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
    onThemeChange(() => this.draw());
  }

  /** `seconds` are in order of time. */
  update(seconds, span) {
    this.span = span;
    this.end = seconds.length ? seconds[seconds.length - 1].time : Date.now() / 1000;
    this.points = seconds.filter((second) => second.time >= this.end - span - 2);
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !this.end) return;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const palette = colours();
    context.font = `11px ${getComputedStyle(canvas).fontFamily}`;

    const values = this.points.flatMap((point) => this.series.map((each) => each.of(point))).filter((v) => v !== null);
    const ticks = niceTicks(Math.max(0, ...values));
    const top = ticks[ticks.length - 1];
    const x = (time) => PAD.left + (1 - (this.end - time) / this.span) * (width - PAD.left - PAD.right);
    const y = (value) => height - PAD.bottom - (value / top) * (height - PAD.top - PAD.bottom);

    context.strokeStyle = palette.rule;
    context.fillStyle = palette.soft;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks) {
      line(context, PAD.left, Math.round(y(tick)) + 0.5, width - PAD.right, Math.round(y(tick)) + 0.5);
      if (values.length) context.fillText(this.format(tick), PAD.left - 7, y(tick));
    }
    context.textBaseline = "alphabetic";
    const minutes = this.span / 60;
    for (let minute = 0; minute <= minutes; minute += minutes > 5 ? 2 : minutes > 1 ? 1 : 0.25) {
      const at = x(this.end - 60 * minute);
      context.textAlign = minute === 0 ? "right" : at < PAD.left + 12 ? "left" : "center";
      const name = minute === 0 ? "now" : minute < 1 ? `−${60 * minute} s` : `−${minute} min`;
      context.fillText(name, at, height - 5);
    }

    context.save();
    context.beginPath();
    context.rect(PAD.left, 0, width - PAD.left - PAD.right + 3, height);
    context.clip();
    for (const each of [...this.series].reverse()) this.#drawSeries(context, palette, each, x, y);
    context.restore();

    const last = this.#nearest(x);
    if (last) {
      if (this.hover !== null) {
        context.strokeStyle = palette.soft;
        line(context, x(last.time), PAD.top, x(last.time), height - PAD.bottom);
      }
      const told = this.series
        .filter((each) => each.of(last) !== null)
        .map((each, index) => (index === 0 ? this.format(each.of(last)) : `${each.name} ${this.format(each.of(last))}`));
      const ago = Math.round(this.end - last.time);
      setText(this.figure, told.join(" · ") + (this.hover !== null && ago > 0 ? `, ${ago} s ago` : ""));
      canvas.setAttribute("aria-label", `${this.title}: ${told.join(", ")}`);
    } else setText(this.figure, "");
    if (!values.length) {
      context.textAlign = "center";
      context.fillStyle = palette.soft;
      context.fillText(this.empty, (PAD.left + width) / 2, height / 2 - 6);
    }
  }

  /** The point under the pointer, or the last one, that has a value. */
  #nearest(x) {
    const told = this.points.filter((point) => this.series[0].of(point) !== null);
    if (this.hover === null) return told[told.length - 1] ?? null;
    return told.reduce(
      (best, point) => (!best || Math.abs(x(point.time) - this.hover) < Math.abs(x(best.time) - this.hover) ? point : best),
      null,
    );
  }

  #drawSeries(context, palette, { of, style }, x, y) {
    const runs = [];
    let previous = null;
    for (const point of this.points) {
      const value = of(point);
      if (value === null) {
        previous = null;
        continue;
      }
      if (previous === null || point.time - previous > GAP_SECONDS) runs.push([]);
      runs[runs.length - 1].push([x(point.time), y(value)]);
      previous = point.time;
    }
    context.strokeStyle = context.fillStyle = style === "faint" ? palette.faint : palette.rubric;
    context.lineWidth = style === "faint" ? 1 : 1.6;
    context.lineJoin = "round";
    for (const run of runs) {
      if (run.length === 1) {
        context.beginPath();
        context.arc(run[0][0], run[0][1], style === "faint" ? 1.5 : 2.2, 0, 7);
        context.fill();
        continue;
      }
      context.beginPath();
      for (const [px, py] of run) context.lineTo(px, py);
      context.stroke();
      if (style === "area") {
        context.lineTo(run[run.length - 1][0], y(0));
        context.lineTo(run[0][0], y(0));
        context.globalAlpha = 0.13;
        context.fill();
        context.globalAlpha = 1;
      }
    }
  }
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

/** 0 and up to three more round values, the last at least `most`. */
function niceTicks(most) {
  if (most <= 0) return [0, 1];
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => 3 * each >= most * 0.999);
  const ticks = [0];
  while (ticks[ticks.length - 1] < most * 0.999) ticks.push(ticks.length * step);
  return ticks;
}
