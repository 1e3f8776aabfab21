// The Markdown that models write, as elements. Text stays text: no HTML, no links that load anything.

import { el } from "./dom.js";

const BULLET = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"));
}

function blocks(lines) {
  const found = [];
  let index = 0;
  while (index < lines.length) {
    const line = lines[index];
    const fence = line.match(/^\s{0,3}(```+|~~~+)\s*([\w+#.-]*)/);
    const heading = line.match(/^(#{1,6})\s+(.*)$/);
    if (fence) {
      const end = lines.findIndex((each, at) => at > index && each.trim().startsWith(fence[1]) && !each.trim().slice(fence[1].length).trim());
      const body = lines.slice(index + 1, end < 0 ? undefined : end);
      found.push(el("pre", {}, el("code", { "data-language": fence[2] }, body.join("\n"))));
      index = end < 0 ? lines.length : end + 1;
    } else if (heading) {
      found.push(el(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])));
      index += 1;
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      found.push(el("hr"));
      index += 1;
    } else if (BULLET.test(line)) {
      const taken = takeWhile(lines, index, (each, at) => BULLET.test(each) || /^\s{2,}\S/.test(each) || (!each.trim() && BULLET.test(lines[at + 1] ?? "")));
      found.push(list(taken.filter((each) => each.trim())));
      index += taken.length;
    } else if (/^\s*>/.test(line)) {
      const taken = takeWhile(lines, index, (each) => /^\s*>/.test(each));
      found.push(el("blockquote", {}, ...blocks(taken.map((each) => each.replace(/^\s*>\s?/, "")))));
      index += taken.length;
    } else if (!line.trim()) {
      index += 1;
    } else {
      const taken = takeWhile(lines, index, (each, at) => each.trim() && (at === index || !/^(\s{0,3}(```|~~~)|#{1,6}\s|\s*>)/.test(each) && !BULLET.test(each)));
      found.push(el("p", {}, ...inline(taken.join("\n"))));
      index += taken.length;
    }
  }
  return found;
}

function takeWhile(lines, start, holds) {
  let end = start + 1;
  while (end < lines.length && holds(lines[end], end)) end += 1;
  return lines.slice(start, end);
}

function list(lines) {
  const [, indent, mark] = lines[0].match(BULLET);
  const ordered = /\d/.test(mark);
  const element = el(ordered ? "ol" : "ul", ordered ? { start: Number.parseInt(mark, 10) } : {});
  let item = [];
  const flush = () => {
    if (!item.length) return;
    const [first, ...rest] = item;
    element.append(el("li", {}, ...inline(first), ...blocks(rest.map((line) => line.slice(indent.length + 2)))));
    item = [];
  };
  for (const line of lines) {
    const match = line.match(BULLET);
    if (match && match[1].length <= indent.length + 1) {
      flush();
      item.push(match[3]);
    } else item.push(line);
  }
  flush();
  return element;
}

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?!\*)|(?<![\w_])_(?=[^\s_])([^_]*[^\s_])_(?!\w)/;

function inline(text) {
  const found = [];
  let rest = text;
  for (;;) {
    const match = rest.match(INLINE);
    if (!match) break;
    if (match.index) found.push(rest.slice(0, match.index));
    const [whole, ticks, code, strong, starred, underlined] = match;
    if (ticks) found.push(el("code", {}, code.trim()));
    else if (strong) found.push(el("strong", {}, ...inline(strong)));
    else found.push(el("em", {}, ...inline(starred ?? underlined)));
    rest = rest.slice(match.index + whole.length);
  }
  if (rest) found.push(rest);
  return found;
}
