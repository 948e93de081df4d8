// The ladder of what each move would liquidate, and the same as it moved in time.

import { Chart, clockAxis, colour } from "./charts.js";
import { element, find, money, put, short, signed, time, toMs, whole } from "./dom.js";

/* global uPlot */
const COLUMNS_MAX = 400;
// Of the span that the API has, the middle is where the market is: the map shows that much to either side.
const SHOWN_MOVE = 0.3;
const SHADES = 12;

const ladder = new Chart(find("ladder"), {
  title: "Notional liquidated in addition at each step of the price",
  height: 300,
  x: { label: "Price", show: (_, index) => binText(index) },
  series: [
    { label: "longs", colour: "down", show: short, options: () => bars("down") },
    { label: "shorts", colour: "up", show: short, options: () => bars("up") },
    { label: "all up to here", colour: "ink", show: short, options: () => ({ scale: "sum", width: 1.25 }) },
  ],
  options: {
    scales: { x: { time: false, range: (_, low, high) => [low - 0.005, high + 0.005] }, y: { range: fromZero }, sum: { range: fromZero } },
    axes: [
      { values: (_, moves) => moves.map(moveText), space: 60, size: 44 },
      { size: 54, values: (_, all) => all.map(short) },
      { scale: "sum", side: 1, size: 54, grid: { show: false }, values: (_, all) => all.map(short) },
    ],
  },
});
// Where nobody points, the ladder reads out the bin below the price in force.
ladder.resting = () => Math.max(0, Math.floor(ladder.data[0].length / 2) - 1);
ladder.tableIndices = () => [...ladder.data[0].keys()].filter((index) => ladder.data[1][index] || ladder.data[2][index]);

const map = new Chart(find("heatmap"), {
  title: "Price over time, with the notional that would be liquidated at each",
  height: 300,
  x: { label: "Time, UTC", show: (seconds) => time(seconds * 1000) },
  series: [{ label: "in force", colour: "ink", show: (value) => priceText(value), options: () => ({ width: 2 }) }],
  options: {
    axes: [clockAxis, { size: 62, values: (_, all) => all.map(priceText) }],
    scales: { x: { time: false }, y: { range: mapRange } },
    cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
  },
  hooks: { drawAxes: [drawCells] },
});

// symbol -> its columns: when, the edges, what each bin holds, the price in force
const columns = new Map();
let chosen = "", shown = null;

export function choose(symbol) {
  chosen = symbol;
  shown = null;
  ladder.set([[], [], [], []]);
  map.set([[], []]);
  put("heat-note");
}

export function forget() {
  columns.clear();
  choose(chosen);
}

export function show(found) {
  shown = found;
  const middle = Math.floor(found.edges.length / 2), moves = found.moves.map(Number);
  const bins = moves.slice(1).map((move, index) => (move + moves[index]) / 2);
  const amount = (side) => found.ladder.map((bin) => Number(bin[side]));
  // What stands at a bin's outer edge, seen from the price in force.
  const all = bins.map((_, index) => (index < middle ? index : index + 1)).map((edge) => Number(found.long[edge]) + Number(found.short[edge]));
  ladder.set([bins, amount("long"), amount("short"), all]);
  remember(found, middle);
  note(found, middle);
}

function remember(found, middle) {
  if (!columns.has(chosen)) columns.set(chosen, []);
  const list = columns.get(chosen), ms = toMs(found.survey_began);
  if (!list.length || ms > list.at(-1).ms) {
    const heat = found.ladder.map((bin) => Math.abs(Number(bin.long)) + Math.abs(Number(bin.short)));
    list.push({ ms, edges: found.edges.map(Number), heat, price: Number(found.edges[middle]) });
    if (list.length > COLUMNS_MAX) list.shift();
  }
  map.set([list.map((column) => column.ms / 1000), list.map((column) => column.price)]);
}

function note(found, middle) {
  const now = Number(found.long[middle]) + Number(found.short[middle]);
  const fall = found.moves.findIndex((move) => Number(move) >= -0.1);
  const parts = [
    ["To be liquidated now ", money(String(now)), `, ${whole(String(found.accounts[middle]))} accounts`],
    ["; at 10 % less ", money(String(Number(found.long[fall]) + Number(found.short[fall]))), `, ${whole(String(found.accounts[fall]))} accounts`],
  ];
  put("heat-note", ...parts.flatMap(([before, amount, after]) => [before, element("b", { text: amount }), after]), ".");
}

function binText(index) {
  if (shown === null) return "";
  const [low, high] = [shown.moves[index], shown.moves[index + 1]];
  const prices = shown.symbol === null ? "" : `, ${whole(shown.edges[index])} to ${whole(shown.edges[index + 1])}`;
  return `${signed(low, 0)} to ${signed(high, 0)}${prices}`;
}

function moveText(move) {
  const price = shown?.symbol ? Number(shown.edges[Math.floor(shown.edges.length / 2)]) * (1 + move) : null;
  return signed(String(move), 0) + (price === null ? "" : `\n${short(price)}`);
}

function priceText(price) {
  if (chosen === "") return signed(String(price - 1), 1);
  return new Intl.NumberFormat("en", { maximumSignificantDigits: 5 }).format(price);
}

function bars(name) {
  return { paths: uPlot.paths.bars({ size: [0.9, 24] }), fill: colour(name), stroke: colour(name), width: 0 };
}

// Both scales of the ladder have their zero at the same height; a bin can be below it (see the API's description).
function fromZero(_, low, high) {
  const all = [...ladder.data[1], ...ladder.data[2]];
  const below = Math.min(0, ...all) / Math.max(1e-9, ...all), top = (high || 1) * 1.05;
  return [Math.max(-1, below) * top, top];
}

function mapRange() {
  const prices = (columns.get(chosen) ?? []).map((column) => column.price);
  return [Math.min(...prices) * (1 - SHOWN_MOVE), Math.max(...prices) * (1 + SHOWN_MOVE)];
}

// The cells behind the line: the darker, the more; by the square root, so that small ones show.
function drawCells(plot) {
  const list = columns.get(chosen) ?? [], { ctx, bbox } = plot;
  const most = Math.max(1e-9, ...list.flatMap((column) => column.heat));
  const lastWidth = list.length > 1 ? list.at(-1).ms - list.at(-2).ms : 1_000;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = colour("heat");
  list.forEach((column, index) => {
    const left = plot.valToPos(column.ms / 1000, "x", true);
    const right = plot.valToPos((list[index + 1]?.ms ?? column.ms + lastWidth) / 1000, "x", true);
    const at = column.edges.map((edge) => plot.valToPos(edge, "y", true));
    column.heat.forEach((amount, bin) => {
      if (!amount) return;
      ctx.globalAlpha = Math.max(0.06, Math.ceil(SHADES * Math.sqrt(amount / most)) / SHADES);
      ctx.fillRect(left, at[bin + 1], Math.ceil(right - left), Math.ceil(at[bin] - at[bin + 1]));
    });
  });
  ctx.restore();
}
