// What each answer of the API becomes on the page. Figures are shown as they came; only charts make numbers of them.

import { open as openCard } from "./card.js";
import { History } from "./charts.js";
import { age, duration, element, figure, find, money, order, percent, put, row, rows, scale, sigmas, signed, time, toMs, whole } from "./dom.js";
import { buckets, quantile, series, since } from "./exposition.js";

const fundChart = new History(find("fund-chart"), {
  title: "Equity of the fund", axis: { values: (_, all) => scale(all) },
  series: [{ label: "equity", colour: "c0", show: (value) => money(String(value)) }],
});
const latencyChart = new History(find("latency-chart"), {
  title: "Tick to decision", axis: { values: (_, all) => all.map(duration) }, range: (_, low, high) => [0, (high || 1e-3) * 1.1],
  series: [{ label: "p50", colour: "c0", show: duration }, { label: "p99", colour: "c1", show: duration }],
});
const LATENCIES = [
  ["tick to decision", "liq_tick_to_decision_seconds"],
  ["tick to output", "liq_tick_to_output_seconds"],
  ["reading a batch", "liq_decode_seconds"],
  ["applying a batch", "liq_fold_seconds"],
  ["committing it", "liq_commit_seconds"],
];
const PAYERS = ["insurance", "adl", "socialisation", "nobody"];
let before = new Map();
const riskyRows = new Map();

// Another shard is shown: nothing of the former one stays.
export function begin() {
  before = new Map();
  riskyRows.clear();
  fundChart.begin();
  latencyChart.begin();
}

export function status(found, ready) {
  const health = new Map((ready?.shards ?? []).map((one) => [one.shard, one]));
  put("about", `${found.cluster}, ${found.delivery.replaceAll("_", " ")}, version ${found.version}`);
  rows("shard-rows", found.shards.map((one) => {
    const { lag, eta_seconds: eta } = health.get(one.shard) ?? {};
    const state = element("span", { cls: `tag ${one.state === "live" ? "good" : "bad"}`, text: one.state + (eta ? `, ${eta} s left` : "") });
    const count = (value) => (value === undefined || value === null ? "–" : figure(String(value), whole(String(value))));
    const paused = Object.entries(one.paused ?? {}).map(([scope, reason]) => `${scope}: ${reason}`).join(", ") || "–";
    const cells = [String(one.shard), state, count(lag), one.ts ? time(toMs(one.ts)) : "–", count(one.records), count(one.seq), count(one.rows), count(one.liquidations), count(one.held), paused];
    return row(cells, { numbers: [2, 4, 5, 6, 7, 8] });
  }));
}

export function marks(found) {
  const prices = [...found.marks, ...found.asset_prices.filter((one) => !one.fixed).map((one) => ({ ...one, symbol: one.asset }))];
  // A venue lists more than is traded: what nobody holds and nobody prices is counted only.
  const used = prices.filter((one) => one.price !== null || one.positions);
  put("mark-rest", used.length < prices.length ? `${prices.length - used.length} more have neither a price nor a position.` : "");
  const list = used.sort((a, b) => (b.age_ms ?? Infinity) - (a.age_ms ?? Infinity) || a.symbol.localeCompare(b.symbol));
  rows("mark-rows", list.map((one) => row([
    one.symbol, one.price === null ? "none yet" : figure(one.price, whole(one.price)),
    one.age_ms === null ? "–" : figure(String(one.age_ms), age(one.age_ms)),
    one.positions === undefined ? "–" : figure(String(one.positions), whole(String(one.positions))), markState(one),
  ], { numbers: [1, 2, 3] })));
  const [oldest] = list.filter((one) => one.age_ms !== null);
  put("tile-age", oldest ? figure(String(oldest.age_ms), age(oldest.age_ms)) : "–");
  const stale = list.filter((one) => one.stale).length;
  put("tile-age-sub", oldest ? `${oldest.symbol}; ${stale} of ${list.length} prices stale` : "no price yet");
}

function markState(one) {
  const states = [[one.paused, "paused"], [one.stale, "stale"], [one.pending !== null, `${one.pending} unconfirmed`], [!one.seen, "warming up"]];
  const [, bad] = states.find(([is]) => is) ?? [];
  return element("span", { cls: `tag ${bad ? "bad" : "good"}`, text: bad ?? "in force" });
}

export function liquidations(found) {
  put("tile-open", figure(String(found.open_count), whole(String(found.open_count))));
  put("tile-held", `${whole(String(found.held_count))} held`);
  rows("debt-last", found.bad_debt.slice(0, 5).map((one) => row(
    [accountButton(one.account, one.liquidation_id), figureOf(one.deficit, one.asset), figureOf(one.uncovered, one.asset)], { numbers: [1, 2] })), "none of late");
}

function figureOf(amount, asset) {
  return element("span", {}, figure(amount), ` ${asset}`);
}

function accountButton(account, text = account) {
  const button = element("button", { type: "button", cls: "open", text });
  button.addEventListener("click", () => openCard(account));
  return button;
}

export function riskiest(found) {
  const due = found.bands.liquidatable;
  put("tile-due", figure(String(due), whole(String(due))));
  put("tile-rows", `of ${whole(String(found.rows))} with positions`);
  bands(found);
  const focused = find("risky-rows").contains(document.activeElement);
  const names = found.riskiest.map((one) => `${one.account}\n${one.bucket ?? ""}`);
  for (const name of [...riskyRows.keys()]) if (!names.includes(name)) riskyRows.delete(name);
  order(find("risky-rows"), found.riskiest.map((one, index) => riskyRow(names[index], one)));
  if (focused && !find("risky-rows").contains(document.activeElement)) find("risky-title").focus();
}

function riskyRow(name, one) {
  if (!riskyRows.has(name)) {
    const button = accountButton(one.account);
    riskyRows.set(name, row([element("span", {}, button, one.bucket ? ` ${one.bucket}` : ""), "", "", "", "", ""], { numbers: [1, 2, 3, 4, 5] }));
  }
  const node = riskyRows.get(name), cells = node.children;
  const isDue = one.margin_ratio === null || Number(one.margin_ratio) >= 1;
  node.className = isDue ? "due" : "";
  const { factor_move: move, factor_sigmas: days } = one;
  cells[1].replaceChildren(one.margin_ratio === null ? "no equity" : figure(one.margin_ratio, percent(one.margin_ratio)));
  cells[2].replaceChildren(move === null ? "none does it" : figure(move, Number(move) ? signed(move) : "none left"));
  cells[3].replaceChildren(days === null ? "–" : figure(days, sigmas(days)));
  cells[4].replaceChildren(figure(one.equity));
  cells[5].replaceChildren(figure(one.maintenance_margin));
  return node;
}

function bands(found) {
  const total = Math.max(1, found.rows);
  const parts = Object.entries(found.bands).map(([name, count], index) => {
    const bar = element("i", { cls: `b${index}` });
    bar.style.flexGrow = count / total;
    const label = name === "liquidatable" ? "to be liquidated" : name.replace("-", " to ");
    return [bar, element("li", {}, element("i", { cls: `key b${index}` }), `${label} `, element("b", {}, figure(String(count), whole(String(count)))))];
  });
  put("bands", element("p", { cls: "note", text: "Accounts by MM / E" }), element("div", { cls: "stack", "aria-hidden": "true" }, ...parts.map(([bar]) => bar)), element("ul", { cls: "keys" }, ...parts.map(([, key]) => key)));
}

export function fund(found) {
  put("tile-fund", found.equity === null ? "–" : figure(found.equity));
  put("tile-floor", `floor ${money(found.floor)}`);
  if (found.equity !== null) fundChart.push(toMs(found.ts), [Number(found.equity)]);
  const balances = Object.entries(found.balances).map(([asset, amount]) => row([asset, figure(amount), "–"], { numbers: [1, 2] }));
  const positions = found.positions.map((one) => row([one.symbol, figure(one.qty, whole(one.qty)), figure(one.unrealised_pnl)], { numbers: [1, 2] }));
  rows("fund-rows", [...balances, ...positions], "nothing");
}

// Returns the clock of the shard at the scrape, ms.
export function metrics(families, shard) {
  const now = new Map(LATENCIES.map(([, name]) => [name, buckets(families, name, shard)]));
  const clockMs = Math.round(1000 * (series(families, "liq_clock_timestamp_seconds", shard)[0]?.value ?? 0));
  latency(now, clockMs);
  debts(families, shard);
  return clockMs;
}

function latency(now, clockMs) {
  const spans = LATENCIES.map(([text, name]) => [text, since(now.get(name), before.get(name))]);
  find("latency-caption").textContent = before.size ? "Between the last two looks, five seconds apart" : "Since the process started";
  before = now;
  rows("latency-rows", spans.map(([text, counts]) => row(
    [text, ...[0.5, 0.99, 0.999].map((part) => duration(quantile(counts, part))), whole(String(counts.at(-1)?.[1] ?? 0))], { numbers: [1, 2, 3, 4] })));
  const [, ticks] = spans[0], [p50, p99] = [quantile(ticks, 0.5), quantile(ticks, 0.99)];
  put("tile-latency", duration(p99));
  put("tile-latency-sub", `p50 ${duration(p50)}`);
  if (Number.isFinite(p99)) latencyChart.push(clockMs, [p50, p99]);
}

function debts(families, shard) {
  const paid = series(families, "liq_bad_debt_paid_total", shard);
  const deficits = series(families, "liq_bad_debt_total", shard).filter(({ value }) => value);
  const shown = (value) => figure(String(value));
  rows("debt-rows", deficits.map(({ labels: { asset }, value }) => row(
    [asset, shown(value), ...PAYERS.map((payer) => shown(paid.find(({ labels }) => labels.asset === asset && labels.payer === payer)?.value ?? 0))], { numbers: [1, 2, 3, 4, 5] })));
  put("tile-debt", ...(deficits.length ? deficits.map(({ labels: { asset }, value }) => element("span", { cls: "line" }, shown(value), element("small", { text: ` ${asset}` }))) : ["0"]));
  const uncovered = series(families, "liq_uncovered_balance", shard).filter(({ value }) => value);
  put("tile-uncovered", uncovered.length ? uncovered.map(({ labels, value }) => `${money(String(value))} ${labels.asset}`).join(", ") + " uncovered" : "nothing uncovered");
}
