// What the page is written with: elements whose text is text and never markup, figures that keep their exact value.

export const find = (id) => document.getElementById(id);

export function element(name, { parent, text, cls, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  parent?.append(node);
  return node;
}

const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 8 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const minus = (text) => text.replace("-", "−");

// Decimal strings go to Intl as they are: they may have more digits than a number holds.
export const money = (text) => minus(cents.format(text));
export const whole = (text) => minus(exact.format(text));
export const price = (text) => minus(digits.format(text));
export const short = (value) => minus(compact.format(value));
// The marks of an axis, with as many digits as tell neighbours apart.
export function scale(values) {
  const texts = [1, 2, 3, 4].map((maximumFractionDigits) => {
    const format = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits });
    return values.map((value) => minus(format.format(value)));
  });
  return texts.find((all) => new Set(all).size === all.length) ?? texts.at(-1);
}
export const percent = (text, digits = 2) => `${minus((100 * Number(text)).toFixed(digits))} %`;
export const sigmas = (text) => `${Number(text).toFixed(Number(text) < 10 ? 1 : 0)} σ`;
export const signed = (text, digits = 2) => (Number(text) > 0 ? "+" : "") + percent(text, digits);

// A figure as people read it; its exact value is in `value`, and in the tooltip where that says more.
export function figure(text, shown = money(text)) {
  const node = element("data", { value: text, text: shown });
  if (whole(text) !== shown) node.title = whole(text);
  return node;
}

export function put(id, ...content) {
  find(id).replaceChildren(...content);
}

// Times. Nanoseconds come as numbers that cannot hold them all; a millisecond they can.
export const toMs = (ts) => Math.round(ts / 1e6);
const two = (value) => String(value).padStart(2, "0");
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

export function time(ms, { millis = false } = {}) {
  const at = new Date(ms);
  const seconds = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
  return millis ? `${seconds}.${String(at.getUTCMilliseconds()).padStart(3, "0")}` : seconds;
}

export function day(ms) {
  const at = new Date(ms);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
}

export function age(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 120_000) return `${(ms / 1_000).toFixed(1)} s`;
  return ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${(seconds * 1e3).toFixed(seconds < 0.01 ? 2 : 1)} ms` : `${seconds.toFixed(2)} s`;
}

// A table's row; a cell is text, or a node. The first one names the row.
export function row(cells, { numbers = [], cls } = {}) {
  const nodes = cells.map((cell, index) => {
    const name = index === 0 ? "th" : "td";
    const node = element(name, index === 0 ? { scope: "row" } : numbers.includes(index) ? { cls: "n" } : {});
    node.append(cell);
    return node;
  });
  return element("tr", cls ? { cls } : {}, ...nodes);
}

export function rows(id, list, empty = "none") {
  const columns = find(id).closest("table").tHead.rows[0].cells.length;
  const none = () => element("tr", {}, element("td", { cls: "empty", colspan: columns, text: empty }));
  find(id).replaceChildren(...(list.length ? list : [none()]));
}

// Puts nodes in this order under a parent, without a touch to the one that has the focus: moved, it would lose it.
export function order(parent, nodes) {
  for (const node of [...parent.children]) if (!nodes.includes(node)) node.remove();
  const held = nodes.findIndex((node) => node.contains(document.activeElement));
  if (held < 0) return parent.append(...nodes);
  for (const node of nodes.slice(0, held)) nodes[held].before(node);
  parent.append(...nodes.slice(held + 1));
}
