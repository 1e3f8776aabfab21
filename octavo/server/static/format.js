// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Three significant digits at most, none after the point from 100 on. */
export function rate(value) {
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(2).replace(/\.?0+$/, "");
}

export function seconds(value) {
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 0.9995) return `${(value * 1000).toFixed(0)} ms`;
  if (value < 60) return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (value >= 1024 && index < units.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${rate(value)} ${units[index]}`;
}

/** A request id short enough for a row: its end tells requests apart. */
export function shortId(id) {
  const name = id.replace(/^(chatcmpl|cmpl|resp)-/, "");
  return name.length <= 22 ? name : `${name.slice(0, 10)}…${name.slice(-9)}`;
}

/** One line: line breaks and tabs become visible. */
export const oneLine = (text) => text.replace(/\r?\n/g, "↵").replace(/\t/g, "⇥");
