"use strict";
// Draws the charts from the data in the page, keeps their crosshairs together, and opens the cards.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const charts = [];
  const PAD = { left: 58, right: 10, top: 22, bottom: 22 };
  const TABLE_ROWS_MAX = 60;
  const SECOND = 1e3, MINUTE = 6e4, HOUR = 36e5, DAY = 864e5;
  const TIME_STEPS = [1, 5, 20, 100, 500, SECOND, 5 * SECOND, 15 * SECOND, 30 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE,
    30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY];
  const STAGE_NAMES = { full: "Order, full", partial: "Order, partial", takeover: "Takeover", adl: "Auto-deleveraging" };
  const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
  const full = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
  const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

  const number = (value) => (Math.abs(value) >= 1 || value === 0 ? full : small).format(value).replace("-", "−");
  const money = data.currency;
  const two = (value) => String(value).padStart(2, "0");

  function element(name, className, parent, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }

  function shape(name, attributes, parent) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    parent.append(node);
    return node;
  }

  function clock(ms, step) {
    const at = new Date(data.start + ms);
    const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    const day = `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
    if (step >= 91 * DAY) return `${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
    if (step >= DAY || (step >= MINUTE && time === "00:00")) return day;
    if (step >= MINUTE) return time;
    const seconds = `${time}:${two(at.getUTCSeconds())}`;
    return step >= SECOND ? seconds : `${seconds}.${String(at.getUTCMilliseconds()).padStart(3, "0")}`;
  }

  function span(ms) {
    const [size, name] = ms >= DAY ? [DAY, "days"] : ms >= HOUR ? [HOUR, "h"] : ms >= MINUTE ? [MINUTE, "min"] : ms >= SECOND ? [SECOND, "s"] : [1, "ms"];
    return `${short.format(ms / size)} ${name}`;
  }

  function moment(ms) {
    const at = new Date(data.start + ms);
    return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}, ${clock(ms, data.span < 10 * MINUTE ? 1 : SECOND - 1).slice(0, data.span < 10 * MINUTE ? 12 : 8)}`;
  }

  // The largest round step that leaves at most `count` intervals in `span`.
  function roundStep(span, count) {
    const raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= raw * 0.999);
  }

  // The last index whose time is not after `ms`, or -1.
  function indexAt(times, ms) {
    let low = 0, high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] <= ms) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  class Chart {
    // spec: title, unit(chart) of the value axis, floor (that axis starts there), times (at which there is something), extent(chart) -> [low, high],
    // draw(chart), tip(ms, chart) -> [[class, name, value]], label {step, of(value)} of a value axis that is no scale
    constructor(name, spec) {
      this.host = document.getElementById(`chart-${name}`);
      this.spec = spec;
      this.height = Number(this.host.dataset.height);
      this.legend = element("div", "legend", this.host);
      if (spec.title) element("strong", "", this.legend, spec.title);
      if (spec.legend) spec.legend(this);
      this.svg = shape("svg", { tabindex: 0, role: "img", "aria-label": this.host.getAttribute("aria-label") }, this.host);
      this.tip = element("div", "tip", this.host);
      this.tip.setAttribute("role", "status");
      this.asTable();
      this.tip.hidden = true;
      this.ms = null;
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => cursor(null, null));
      this.svg.addEventListener("blur", () => cursor(null, null));
      this.svg.addEventListener("keydown", (event) => this.key(event));
      charts.push(this);
      this.draw();
      // Drawing changes the height of what is observed; only a new width is news.
      new ResizeObserver(() => { if (Math.floor(this.host.clientWidth) !== this.width) requestAnimationFrame(() => this.draw()); }).observe(this.host);
    }

    x(ms) { return PAD.left + (Math.min(Math.max(ms, 0), data.span) / data.span) * (this.width - PAD.left - PAD.right); }
    y(value) { return this.height - PAD.bottom - ((value - this.low) / (this.high - this.low)) * (this.height - PAD.top - PAD.bottom); }

    draw() {
      const width = Math.floor(this.host.clientWidth);
      if (width < 120) return;
      this.width = width;
      this.svg.replaceChildren();
      this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
      this.svg.setAttribute("height", this.height);
      this.scale();
      this.axes();
      this.spec.draw(this);
      this.cross = shape("line", { class: "cross", y1: PAD.top, y2: this.height - PAD.bottom, visibility: "hidden" }, this.svg);
    }

    scale() {
      let [low, high] = this.spec.extent(this);
      if (!(high > low)) { const spread = Math.abs(high) * 0.01 || 1; low -= spread; high += spread; }
      const room = (high - low) * 0.05;
      this.high = high + room;
      this.low = this.spec.floor === undefined ? low - room : this.spec.floor;
    }

    axes() {
      const bottom = this.height - PAD.bottom, right = this.width - PAD.right;
      const { label } = this.spec;
      const step = label ? label.step : roundStep(this.high - this.low, Math.max(2, Math.floor(this.height / 52)));
      const format = step >= 1e3 || step < 1e-3 ? compact : new Intl.NumberFormat("en", { maximumFractionDigits: Math.max(0, 1 - Math.floor(Math.log10(step))) });
      for (let k = Math.ceil(this.low / step); k * step <= this.high; k++) {
        const y = this.y(k * step);
        shape("line", { class: k === 0 && this.low < 0 ? "zero" : "grid", x1: PAD.left, x2: right, y1: y, y2: y }, this.svg);
        shape("text", { x: PAD.left - 8, y: y + 4, "text-anchor": "end" }, this.svg).textContent = label ? label.of(k * step) : format.format(k * step).replace("-", "−");
      }
      shape("line", { class: "axis", x1: PAD.left, x2: right, y1: bottom, y2: bottom }, this.svg);
      shape("text", { class: "unit", x: 0, y: 11 }, this.svg).textContent = this.spec.unit(this);
      const ticks = Math.max(3, Math.floor(this.width / 110));
      const gap = TIME_STEPS.find((candidate) => data.span / candidate <= ticks) || 365 * DAY * Math.ceil(data.span / ticks / (365 * DAY));
      for (let ms = Math.ceil(data.start / gap) * gap - data.start; ms <= data.span; ms += gap) {
        const x = this.x(ms), anchor = x < PAD.left + 24 ? "start" : x > right - 24 ? "end" : "middle";
        shape("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }, this.svg);
        shape("text", { x, y: bottom + 17, "text-anchor": anchor }, this.svg).textContent = clock(ms, gap);
      }
    }

    // The same figures as a table, made when it is asked for, thinned to what can be read.
    asTable() {
      const details = element("details", "as-table", this.host);
      element("summary", "", details, "Show as a table");
      details.addEventListener("toggle", () => {
        if (!details.open || details.querySelector("table")) return;
        const { names, rows } = this.spec.table ? this.spec.table() : this.byTime();
        const frame = element("div", "scroll", details);
        frame.tabIndex = 0;
        frame.setAttribute("role", "region");
        frame.setAttribute("aria-label", `${this.host.getAttribute("aria-label")}, as a table`);
        const table = element("table", "", frame), head = element("tr", "", element("thead", "", table)), body = element("tbody", "", table);
        for (const [index, name] of ["Time", ...names].entries()) element("th", index ? "n" : "", head, name).scope = "col";
        for (const [ms, values] of rows) {
          const row = element("tr", "", body);
          element("td", "", row, moment(ms));
          for (const value of values) element("td", "n", row, value === undefined ? "–" : value);
        }
      });
    }

    // What the tip says at each time, a column for each name.
    byTime() {
      const { times } = this.spec, every = Math.ceil(times.length / TABLE_ROWS_MAX);
      const kept = times.filter((_, index) => index % every === 0 || index === times.length - 1);
      const said = kept.map((ms) => [ms, new Map(this.spec.tip(ms, this).map(([, name, value]) => [name, value]))]);
      const names = [...new Set(said.flatMap(([, values]) => [...values.keys()]))];
      return { names, rows: said.map(([ms, values]) => [ms, names.map((name) => values.get(name))]) };
    }

    point(event) {
      if (!this.cross) return;
      const box = this.svg.getBoundingClientRect();
      const share = (event.clientX - box.left - PAD.left) / (this.width - PAD.left - PAD.right);
      cursor(Math.min(Math.max(share, 0), 1) * data.span, this);
    }

    key(event) {
      const step = data.span / (event.shiftKey ? 20 : 200), from = this.ms === null ? 0 : this.ms;
      const target = { ArrowLeft: from - step, ArrowRight: from + step, Home: 0, End: data.span, Escape: null }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      cursor(target === null ? null : Math.min(Math.max(target, 0), data.span), this);
    }

    mark(ms, isSource) {
      this.ms = ms;
      if (!this.cross) return;
      this.cross.setAttribute("visibility", ms === null ? "hidden" : "visible");
      this.tip.hidden = ms === null || !isSource;
      if (ms === null) return;
      const x = this.x(ms);
      this.cross.setAttribute("x1", x);
      this.cross.setAttribute("x2", x);
      if (!isSource) return;
      this.tip.replaceChildren(element("b", "", null, moment(ms)));
      for (const [className, name, value] of this.spec.tip(ms, this)) {
        const row = element("div", className, this.tip);
        element("i", "", row);
        element("span", "", row, name);
        element("em", "", row, value);
      }
      const room = this.host.clientWidth - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, Math.min(room, x > this.width / 2 ? x - this.tip.offsetWidth - 14 : x + 14))}px`;
    }
  }

  function cursor(ms, source) {
    for (const chart of charts) chart.mark(ms, chart === source);
  }

  function path(chart, times, values, isStep) {
    let line = "";
    times.forEach((ms, index) => {
      const x = chart.x(ms).toFixed(1), y = chart.y(values[index]).toFixed(1);
      line += index === 0 ? `M${x},${y}` : isStep ? `H${x}V${y}` : `L${x},${y}`;
    });
    return isStep && line ? `${line}H${chart.x(data.span).toFixed(1)}` : line;
  }

  // What lies between a line's lows and highs.
  function ribbon(chart, { t, low, high }, parent) {
    const back = t.map((ms, index) => `L${chart.x(ms).toFixed(1)},${chart.y(low[index]).toFixed(1)}`).reverse().join("");
    shape("path", { class: "band", d: `${path(chart, t, high, false)}${back}Z` }, parent);
  }

  function nothing(name, text) {
    element("p", "empty", document.getElementById(`chart-${name}`), text);
  }

  // Lines with a switch each; lines: [{name, colour, t, v, [low, high], shown}]
  function lineChart(name, lines, options) {
    if (!lines.some((line) => line.t.length)) return nothing(name, options.empty);
    const shown = () => lines.filter((line) => line.shown);
    let focus = null;
    return new Chart(name, {
      title: options.title,
      unit: () => options.unit,
      floor: options.floor,
      times: [...new Set(lines.flatMap((line) => line.t))].sort((one, other) => one - other),
      legend(chart) {
        if (lines.length === 1 && options.title) return;
        for (const line of lines) {
          const button = element("button", line.colour, chart.legend);
          button.type = "button";
          button.setAttribute("aria-pressed", "true");
          element("i", "", button);
          element("span", "", button, line.name).style.padding = "0";
          const set = (value) => { focus = value; chart.draw(); };
          button.addEventListener("pointerenter", () => set(line));
          button.addEventListener("pointerleave", () => set(null));
          button.addEventListener("click", () => {
            line.shown = !line.shown || shown().length === 1;
            button.setAttribute("aria-pressed", String(line.shown));
            set(null);
          });
        }
      },
      extent: () => [Math.min(...shown().flatMap((line) => line.low || line.v)), Math.max(...shown().flatMap((line) => line.high || line.v))],
      draw(chart) {
        for (const line of shown()) {
          const group = shape("g", { class: `${line.colour}${focus && focus !== line ? " fade" : ""}` }, chart.svg);
          if (line.low && (focus === line || shown().length === 1)) ribbon(chart, line, group);
          const trace = path(chart, line.t, line.v, options.step);
          if (options.area) shape("path", { class: "band", d: `${trace}V${chart.height - PAD.bottom}H${chart.x(line.t[0])}Z` }, group);
          shape("path", { class: "trace", d: trace }, group);
          if (options.dots && line.t.length <= 60) {
            line.t.forEach((ms, index) => index && shape("circle", { class: "dot", cx: chart.x(ms), cy: chart.y(line.v[index]), r: 3 }, group));
          }
        }
      },
      tip(ms) {
        return shown().flatMap((line) => {
          const index = indexAt(line.t, ms);
          return index < 0 ? [] : options.tip(line, index, ms);
        });
      },
    });
  }

  function priceChart() {
    const lines = data.prices.map((line, index) => ({ ...line, colour: `c${index}`, shown: true }));
    const tip = (line, index) => [[line.colour, line.name, `${number(line.v[index])}  (${number((line.v[index] * line.first) / 100)})`]];
    lineChart("prices", lines, { tip, unit: "first mark = 100", empty: "No marks were recorded." });
  }

  // Stacked bars over time; kinds: {label: {series: values}}, names: {series: name}; a switch where there are several kinds.
  // units: {label: what its axis counts}.
  function barChart(name, { t, width, kinds, units, names, empty }) {
    if (!t.length) return nothing(name, empty);
    const labels = Object.keys(kinds), parts = Object.keys(names);
    let kind = labels[0];
    // Bars narrower than three pixels cannot be told apart: neighbours are drawn as one.
    function groups(chart) {
      const pixels = (width / data.span) * (chart.width - PAD.left - PAD.right), wide = width * Math.max(1, Math.ceil(3 / pixels));
      const merged = new Map();
      t.forEach((ms, index) => {
        const start = Math.floor(ms / wide) * wide, sums = merged.get(start) || parts.map(() => 0);
        parts.forEach((part, k) => { sums[k] += kinds[kind][part][index]; });
        merged.set(start, sums);
      });
      return [wide, merged];
    }
    return new Chart(name, {
      unit: () => units[kind],
      floor: 0,
      times: t,
      legend(owner) {
        for (const part of parts) {
          const entry = element("span", `s-${part}`, owner.legend);
          element("i", "block", entry);
          entry.append(names[part]);
        }
        element("span", "gap", owner.legend);
        for (const choice of labels.length > 1 ? labels : []) {
          const button = element("button", "", owner.legend, choice);
          button.type = "button";
          button.setAttribute("aria-pressed", String(choice === kind));
          button.addEventListener("click", () => {
            kind = choice;
            for (const other of owner.legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
            owner.draw();
          });
        }
      },
      extent(owner) {
        const sums = [...groups(owner)[1].values()].map((one) => one.reduce((sum, part) => sum + part, 0));
        return [0, Math.max(...sums)];
      },
      draw(owner) {
        const [wide, merged] = groups(owner);
        for (const [start, sums] of merged) {
          const left = owner.x(start), size = Math.max(owner.x(start + wide) - left - 0.6, 1.6);
          let base = 0;
          sums.forEach((sum, k) => {
            if (sum <= 0) return;
            const top = owner.y(base + sum);
            shape("rect", { class: `bar s-${parts[k]}`, x: left, y: top, width: size, height: Math.max(owner.y(base) - top, 0.8) }, owner.svg);
            base += sum;
          });
        }
      },
      tip(ms, owner) {
        const [wide, merged] = groups(owner), sums = merged.get(Math.floor(ms / wide) * wide);
        return parts.map((part, k) => [`s-${part}`, names[part], number(sums ? sums[k] : 0)]);
      },
    });
  }

  function cascadeCharts() {
    const { t, width, counts, notionals, started } = data.bars;
    barChart("bars", { t, width, kinds: { Notional: notionals, Count: counts }, units: { Notional: money, Count: "orders and takeovers" }, names: STAGE_NAMES, empty: "No orders were sent." });
    const names = { started: `Liquidations started, bars of ${span(width)}` };
    barChart("starts", { t, width, kinds: { Count: { started } }, units: { Count: "liquidations" }, names, empty: "No account was liquidated." });
  }

  // Cells of colour over time and another scale; columns: [{from, to, cells: [{low, high, value, name}]}], in order of time.
  function heatChart(name, { title, unit, columns, line, floor, extent, label, empty, table }) {
    if (!columns.length) return nothing(name, empty);
    const most = Math.max(...columns.flatMap((column) => column.cells.map((cell) => cell.value)), 1e-9);
    const starts = columns.map((column) => column.from);
    return new Chart(name, {
      title,
      unit: () => unit,
      floor,
      label,
      times: starts,
      legend(owner) {
        const scale = element("span", "scale", owner.legend);
        element("span", "", scale, "0");
        for (const share of [0.1, 0.3, 0.6, 1]) element("i", `block heat-${Math.ceil(share * 10)}`, scale);
        element("span", "", scale, `${compact.format(most)} ${money}`);
      },
      extent: () => extent,
      draw(owner) {
        columns.forEach(({ from, to, cells }, index) => {
          // A cell may be smaller than the eye can find: it is widened into the room up to the next, and never over it.
          const left = owner.x(from), room = index + 1 < columns.length ? owner.x(starts[index + 1]) - left : 4;
          const size = Math.max(owner.x(to) - left, Math.min(4, room));
          for (const { low, high, value } of cells) {
            if (value <= 0) continue;
            const top = owner.y(high);
            // By the square root: a crash's largest cell would leave all others without colour.
            const shade = Math.max(1, Math.ceil(Math.sqrt(value / most) * 10));
            shape("rect", { class: `heat-${shade}`, x: left, y: top, width: size, height: Math.max(owner.y(low) - top, 5) }, owner.svg);
          }
        });
        if (line) {
          const group = shape("g", { class: "c7" }, owner.svg);
          ribbon(owner, line, group);
          shape("path", { class: "trace", d: path(owner, line.t, line.v, false) }, group);
        }
      },
      table,
      tip(ms) {
        const column = columns[indexAt(starts, ms)];
        const at = line ? indexAt(line.t, ms) : -1;
        const cells = column && ms <= column.to ? [...column.cells].sort((one, other) => other.value - one.value).slice(0, 6) : [];
        const rows = cells.map((cell) => ["c1", cell.name, cell.text || number(cell.value)]);
        return [...(at < 0 ? [] : [["c7", "Mark", number(line.v[at])]]), ...rows];
      },
    });
  }

  function heatMaps() {
    data.heat.forEach(({ name, width, ratio, cells }, index) => {
      const columns = [];
      for (const [from, row, value] of cells) {
        if (!columns.length || columns.at(-1).from !== from) columns.push({ from, to: from + width, cells: [] });
        const low = ratio ** row, high = low * ratio;
        columns.at(-1).cells.push({ low, high, value, name: `${number(low)} to ${number(high)}` });
      }
      const series = data.prices.find((one) => one.name === name);
      const priced = (values) => values.map((value) => (value * series.first) / 100);
      const line = { t: series.t, v: priced(series.v), low: priced(series.low), high: priced(series.high) };
      const edges = columns.flatMap((column) => column.cells.flatMap((cell) => [cell.low, cell.high]));
      const extent = [Math.min(...edges, ...line.low), Math.max(...edges, ...line.high)];
      const flat = columns.flatMap((column) => column.cells.map((cell) => [column.from, cell]));
      const largest = new Set([...flat].sort((one, other) => other[1].value - one[1].value).slice(0, TABLE_ROWS_MAX));
      const rows = flat.filter((cell) => largest.has(cell)).map(([from, cell]) => [from, [cell.name, number(cell.value)]]);
      heatChart(`heat-${index}`, { title: name, unit: "price", columns, line, extent, table: () => ({ names: ["Price", "Notional"], rows }) });
    });
  }

  function fallChart() {
    const { t, falls } = data.exposure, names = Object.keys(falls);
    const columns = t.map((from, index) => ({
      from,
      to: index + 1 < t.length ? t[index + 1] : data.span,
      cells: names.map((fall, k) => {
        const [value, accounts] = falls[fall][index];
        return { low: k, high: k + 1, value, name: fall, text: `${number(value)} of ${full.format(accounts)} accounts` };
      }),
    }));
    const label = (value) => (Number.isInteger(value) ? "" : names[Math.floor(value)] || "");
    heatChart("falls", { unit: "all marks fall by", columns, extent: [0, names.length], floor: 0, label: { step: 0.5, of: label }, empty: "No book was there to look at." });
  }

  function bandChart() {
    const { t, bands } = data.exposure, names = Object.keys(bands);
    if (!t.length) return nothing("bands", "No book was there to look at.");
    const total = (index) => names.reduce((sum, name) => sum + bands[name][index], 0);
    return new Chart("bands", {
      unit: () => "accounts and buckets",
      floor: 0,
      times: t,
      legend(owner) {
        names.forEach((name, k) => {
          const entry = element("span", `b${k}`, owner.legend);
          element("i", "block", entry);
          entry.append(name);
        });
      },
      extent: () => [0, Math.max(...t.map((_, index) => total(index)))],
      draw(owner) {
        t.forEach((from, index) => {
          const left = owner.x(from), size = Math.max(owner.x(index + 1 < t.length ? t[index + 1] : data.span) - left, 0.5);
          let base = 0;
          // The ones in danger stand at the bottom, where a few of many can be seen.
          [...names.keys()].reverse().forEach((k) => {
            const count = bands[names[k]][index], top = owner.y(base + count);
            if (count) shape("rect", { class: `bar b${k}`, x: left, y: top, width: size + 0.3, height: owner.y(base) - top }, owner.svg);
            base += count;
          });
        });
      },
      tip(ms) {
        const index = indexAt(t, ms);
        return index < 0 ? [] : names.map((name, k) => [`b${k}`, name, full.format(bands[name][index])]);
      },
    });
  }

  function fundCharts() {
    data.funds.forEach((fund, index) => {
      const lines = [{ name: fund.asset, colour: `c${(index + 2) % 8}`, t: fund.t, v: fund.v, shown: true }];
      const tip = (line, at) => [
        [line.colour, "Balance", `${number(line.v[at])} ${fund.asset}`],
        ...Object.entries(fund.why[at]).map(([cause, change]) => ["", cause.replaceAll("_", " "), `${change > 0 ? "+" : ""}${number(change)}`]),
      ];
      // The axis of a large fund that hardly moves does not begin at zero, and then there is no area to fill.
      const area = Math.min(...fund.v) >= 0 && Math.min(...fund.v) < Math.max(...fund.v) * 0.6;
      lineChart(`fund-${index}`, lines, { title: fund.asset, unit: fund.asset, step: true, area, floor: area ? 0 : undefined, dots: true, tip });
    });
  }

  function totalCharts() {
    const { t, closed, taken, deleveraged, episodes, accounts } = data.totals;
    const line = (name, colour, values) => ({ name, colour, t: t.length ? [0, ...t] : [], v: [0, ...values], shown: true });
    const options = { step: true, floor: 0, empty: "No account was liquidated.", tip: (entry, at) => [[entry.colour, entry.name, number(entry.v[at])]] };
    lineChart("notional", [line("Closed by orders", "c0", closed), line("Taken over", "s-takeover", taken), line("Deleveraged", "s-adl", deleveraged)], { ...options, title: "Notional", unit: money });
    lineChart("accounts", [line("Accounts", "c2", accounts), line("Liquidations", "c4", episodes)], { ...options, title: "Count", unit: "number" });
  }

  function openCard() {
    const card = /^#card-\d+$/.test(location.hash) && document.querySelector(location.hash);
    if (card && !card.open) card.showModal();
  }

  function cards() {
    for (const button of document.querySelectorAll("button[data-card]")) {
      // Not by location.hash: going to a fragment takes the focus from the button, and closing could not give it back.
      button.addEventListener("click", () => { history.replaceState(null, "", `#${button.dataset.card}`); openCard(); });
    }
    for (const card of document.querySelectorAll("dialog")) {
      card.addEventListener("click", (event) => { if (event.target === card) card.close(); });
      card.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
    }
    addEventListener("hashchange", openCard);
    openCard();
  }

  document.documentElement.className = "";
  priceChart();
  cascadeCharts();
  heatMaps();
  fundCharts();
  totalCharts();
  bandChart();
  fallChart();
  cards();
})();
