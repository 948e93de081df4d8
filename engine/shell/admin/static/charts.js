// Charts that can be read in four ways: looked at, pointed at, stepped through by arrow keys, and as a table.

import { element, time } from "./dom.js";

/* global uPlot */
const POINTS_MAX = 600;
const TABLE_ROWS_MAX = 40;
const scheme = matchMedia("(prefers-color-scheme: dark)");

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Chart {
  // series: {label, colour (a custom property's name), show (value -> text), options (of uPlot)}
  constructor(host, { title, x, series, height = 200, options = {}, hooks = {} }) {
    Object.assign(this, { host, title, x, series, height, options, hooks });
    this.data = [[], ...series.map(() => [])];
    host.classList.add("chart");
    this.readout = element("p", { cls: "readout", parent: host });
    this.frame = element("div", { cls: "frame", parent: host, tabindex: 0, role: "img" });
    this.empty = element("p", { cls: "empty", parent: host, text: "Nothing to draw yet." });
    this.details = element("details", { cls: "as-table", parent: host }, element("summary", { text: `${title}, as a table` }));
    this.table = element("div", { cls: "scroll", parent: this.details, tabindex: 0, role: "group", "aria-label": title });
    this.details.addEventListener("toggle", () => this.tabulate());
    this.frame.addEventListener("keydown", (event) => this.key(event));
    this.frame.addEventListener("blur", () => this.point(null));
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.frame);
    scheme.addEventListener("change", () => this.rebuild());
  }

  size() {
    return { width: Math.max(200, this.frame.clientWidth), height: this.height };
  }

  set(data) {
    this.data = data;
    this.frame.hidden = data[0].length < 2;
    this.empty.hidden = !this.frame.hidden;
    if (!this.frame.hidden) this.plot ? this.plot.setData(data) : this.rebuild();
    this.read();
    this.tabulate();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    if (this.data[0].length < 2) return;
    const axis = { stroke: colour("soft"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const { axes = [{}, {}], ...rest } = this.options;
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
      padding: [10, 28, 0, 0],
      axes: axes.map((own) => ({ ...axis, ...own })),
      series: [{}, ...this.series.map((one) => ({ label: one.label, stroke: colour(one.colour), width: 1.75, points: { show: false }, ...one.options?.() }))],
      hooks: { ...this.hooks, setCursor: [() => this.read()] },
      ...rest,
    }, this.data, this.frame);
  }

  // Arrow keys step through the points, Home and End go to the ends, Escape goes back to the last one.
  key(event) {
    const last = this.data[0].length - 1, at = this.plot?.cursor.idx ?? last;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
    if (next === undefined || !this.plot) return;
    event.preventDefault();
    this.readout.setAttribute("aria-live", "polite");
    this.point(next === null ? null : Math.min(last, Math.max(0, next)));
  }

  point(index) {
    if (!this.plot) return;
    if (index === null) {
      this.readout.removeAttribute("aria-live");
      this.plot.setCursor({ left: -10, top: -10 });
      return;
    }
    this.plot.setCursor({ left: this.plot.valToPos(this.data[0][index], "x"), top: 10 });
  }

  // Which point is read out: the one pointed at, or the last one.
  index() {
    return this.plot?.cursor.idx ?? this.resting();
  }

  resting() {
    return this.data[0].length - 1;
  }

  read() {
    const index = this.index();
    if (index < 0) return this.readout.replaceChildren();
    const parts = this.series.map((one, number) => {
      const key = element("i", { cls: `key ${one.colour}` });
      return element("span", {}, key, `${one.label} `, element("b", { text: this.text(one, number, index) }));
    });
    this.readout.replaceChildren(element("span", { text: this.x.show(this.data[0][index], index) }), ...parts);
    const said = [...this.readout.children].map((part) => part.textContent).join(", ");
    this.frame.setAttribute("aria-label", `${this.title}. ${said}. Arrow keys step through it.`);
  }

  text(one, number, index) {
    const value = this.data[number + 1][index];
    return value === null || Number.isNaN(value) ? "–" : one.show(value);
  }

  tabulate() {
    if (!this.details.open) return;
    const head = [this.x.label, ...this.series.map((one) => one.label)];
    const cells = (name, texts) => element("tr", {}, ...texts.map((text, at) => element(name, { text, ...(at ? { cls: "n" } : {}) })));
    const body = this.tableIndices().map((index) =>
      cells("td", [this.x.show(this.data[0][index], index), ...this.series.map((one, number) => this.text(one, number, index))]));
    this.table.replaceChildren(element("table", {}, element("thead", {}, cells("th", head)), element("tbody", {}, ...body)));
  }

  tableIndices() {
    return [...this.data[0].keys()].slice(-TABLE_ROWS_MAX).reverse();
  }
}

export const clockAxis = { size: 30, values: (_, seconds) => seconds.map((at) => time(at * 1000)), space: 70 };

// Values over the shard's clock, as they come; what came before the page was opened it does not know.
export class History extends Chart {
  constructor(host, options) {
    super(host, {
      ...options,
      x: { label: "Time, UTC", show: (seconds) => time(seconds * 1000) },
      options: { axes: [clockAxis, { size: 62, ...options.axis }], scales: { x: { time: false }, y: { range: options.range ?? wide } } },
    });
  }

  push(ms, values) {
    const [times, ...lines] = this.data;
    if (times.length && ms / 1000 <= times.at(-1)) return;
    times.push(ms / 1000);
    lines.forEach((line, number) => line.push(values[number]));
    if (times.length > POINTS_MAX) for (const line of this.data) line.shift();
    this.set(this.data);
  }

  begin() {
    this.set(this.data.map(() => []));
  }
}

// Room above and below, so that a line at rest is in the middle and not on the frame.
function wide(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}
