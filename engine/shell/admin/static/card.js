// The explain card of an account: the formula with its numbers, position by position and balance by balance.

import { element, figure, find, money, percent, price as level, row, sigmas, signed, toMs, time, whole } from "./dom.js";

let account = null, onChange = () => {};

export function begin(changed) {
  onChange = changed;
  find("card-close").addEventListener("click", () => find("card").close());
  find("card").addEventListener("close", () => { account = null; onChange(); });
  find("card").addEventListener("click", (event) => { if (event.target === find("card")) find("card").close(); });
}

export const shown = () => account;

export function open(name) {
  account = name;
  find("card-title").textContent = name;
  find("card-body").replaceChildren(element("p", { cls: "note", text: "Asking…" }));
  if (!find("card").open) find("card").showModal();
  onChange();
}

export function fail(text) {
  find("card-body").replaceChildren(element("p", { cls: "note", text }));
}

export function show(found) {
  const [basis, distance] = [found.explained, found.distances].map((list) => new Map(list.map((one) => [one.bucket ?? "", one])));
  const parts = found.accounts.flatMap((one) => rowParts(one, basis.get(one.bucket ?? ""), distance.get(one.bucket ?? "")));
  for (const one of found.unpriced) parts.push(element("p", { text: `${one.bucket ?? "Cross margin"} waits for ${one.missing.join(", ")}.` }));
  for (const one of found.held) parts.push(element("p", { cls: "callout", text: `Held since ${time(toMs(one.since))}: ${one.reason.replace("_", " ")}${one.symbol ? ` of ${one.symbol}` : ""}.` }));
  for (const one of found.liquidations) parts.push(liquidation(one));
  find("card-body").replaceChildren(...parts);
}

function rowParts(one, basis, distance) {
  const title = one.bucket ? `Isolated: ${one.bucket}` : "Cross margin";
  const parts = [element("h3", { text: title }), verdict(one, basis), ...formulas(one, basis)];
  if (one.positions.length) parts.push(together(distance));
  if (basis.collateral.length) parts.push(collateral(basis));
  if (one.positions.length) parts.push(positions(one, basis), levels(one, distance));
  if (one.plan.length) parts.push(plan(one.plan));
  return parts;
}

function verdict(one, basis) {
  const sign = basis.trigger === "below" ? "E < MM" : "E ≤ MM";
  const room = Number(one.equity) - Number(one.maintenance_margin);
  const text = one.liquidatable
    ? `To be liquidated: ${sign}, by ${money(String(-room))}.`
    : one.positions.length ? `Healthy: E is above MM by ${money(String(room))}; it would be liquidated at ${sign}.` : "No position, so nothing to liquidate.";
  return element("p", { cls: `verdict ${one.liquidatable ? "bad" : "good"}`, text });
}

function formulas(one, basis) {
  const unit = ` ${basis.valuation}`;
  const line = (name, ...parts) => element("p", { cls: "formula" }, element("b", { text: `${name} ` }), ...parts);
  const margins = basis.positions.flatMap((position, index) => [index ? " + " : "", figure(position.maintenance_margin)]);
  const ratio = one.margin_ratio === null ? "without equity" : figure(one.margin_ratio, percent(one.margin_ratio));
  return [
    line("E", "= collateral + PnL = ", figure(one.wallet_value), Number(one.unrealised_pnl) < 0 ? " − " : " + ",
      figure(one.unrealised_pnl, money(one.unrealised_pnl.replace("-", ""))), " = ", strong("equity", one.equity), unit),
    line("MM", "= Σ of its positions", ...(margins.length ? [" = ", ...margins] : []), " = ", strong("maintenance_margin", one.maintenance_margin), unit),
    line("MM / E", "= ", figure(one.maintenance_margin), " / ", figure(one.equity), " = ", element("strong", { "data-field": "margin_ratio" }, ratio)),
  ];
}

function strong(field, text) {
  return element("strong", { "data-field": field }, figure(text));
}

function table(caption, head, numbers, body) {
  const cells = head.map((text, index) => element("th", { scope: "col", text, ...(numbers.includes(index) ? { cls: "n" } : {}) }));
  const whole = element("table", {}, element("caption", { text: caption }), element("thead", {}, element("tr", {}, ...cells)), element("tbody", {}, ...body));
  return element("div", { cls: "scroll", tabindex: 0, role: "group", "aria-label": caption }, whole);
}

function collateral(basis) {
  const prices = new Map(basis.asset_prices.map(({ asset, price }) => [asset, price]));
  const body = basis.collateral.map((held) => row(
    [held.asset, figure(held.balance), priced(prices.get(held.asset)), weights(held), figure(held.value)], { numbers: [1, 2, 3, 4] }));
  return table("Collateral: balance × price × weight; a debt counts in full", ["Asset", "Balance", "Price", "Weight", "Counts"], [1, 2, 3, 4], body);
}

function weights(held) {
  if (Number(held.balance) < 0) return "100 %";
  return held.weights.map(([floor, weight]) => percent(weight, 0) + (Number(floor) ? ` from ${money(floor)}` : "")).join(", ");
}

function positions(one, basis) {
  const marks = new Map(basis.marks.map(({ symbol, price }) => [symbol, price]));
  const body = basis.positions.map((position) => row([
    named(position), figure(position.qty, whole(position.qty)), priced(marks.get(position.symbol)),
    figure(position.notional), percent(position.tier_rate), figure(position.deduction), figure(position.maintenance_margin), figure(position.unrealised_pnl),
  ], { numbers: [1, 2, 3, 4, 5, 6, 7] }));
  return table("Maintenance margin: notional × rate − deduction, in the settlement asset",
    ["Position", "Quantity", "Mark", "Notional", "× rate", "− deduction", "= MM", "PnL"], [1, 2, 3, 4, 5, 6, 7], body);
}

function together({ factor_move: move, factor_sigmas: days }) {
  const named = (field, ...parts) => element("span", { "data-field": field }, ...parts);
  const parts = [move === null ? "none up to +200 % does it" : named("factor_move", figure(move, Number(move) ? signed(move) : "none left"))];
  if (days !== null) parts.push(" = ", named("factor_sigmas", figure(days, sigmas(days))), " of a day");
  return element("p", { cls: "formula" }, element("b", { text: "Left to all marks together " }), ...parts);
}

function levels(one, distance) {
  const moves = new Map(distance.symbols.map((symbol) => [symbol.symbol, symbol]));
  const body = one.positions.map((position) => {
    const { move, sigmas: days, liquidatable } = moves.get(position.symbol);
    return row([named(position), priced(position.liquidation_price, "none"), move === null ? "–" : figure(move, signed(move)), days === null ? "–" : figure(days, sigmas(days)),
      stretches(liquidatable), priced(position.bankruptcy_price), priced(position.entry_price)], { numbers: [1, 2, 3, 4, 5, 6] });
  });
  return table("Liquidated at, all else standing still; σ is what a day has moved of late",
    ["Position", "Liquidation price", "Move to it", "In σ", "Liquidatable", "Bankruptcy price", "Entry"], [1, 2, 3, 4, 5, 6], body);
}

function stretches(list) {
  const parts = list.flatMap(({ from, to }, index) => [index ? ", " : "", ...stretch(from, to)]);
  return element("span", {}, ...(parts.length ? parts : ["nowhere"]));
}

function stretch(from, to) {
  if (from === null) return to === null ? ["at any price"] : ["up to ", priced(to)];
  return to === null ? ["from ", priced(from), " up"] : [priced(from), " to ", priced(to)];
}

const priced = (text, none = "–") => (text === null ? none : figure(text, level(text)));
const named = (position) => (position.leg === "net" ? position.symbol : `${position.symbol} ${position.leg}`);

function plan(orders) {
  const body = orders.map((order) => order.symbol
    ? row([order.symbol, `${order.side}, ${order.stage}`, figure(order.qty, whole(order.qty)), priced(order.limit_price)], { numbers: [2, 3] })
    : row([order.asset, `sell for ${order.for_asset}`, figure(order.amount), priced(order.limit_price)], { numbers: [2, 3] }));
  return table("What would be ordered now", ["What", "How", "Quantity", "Limit"], [2, 3], body);
}

function liquidation(one) {
  const waits = { orders: "waits for its orders", held: "is held", taker: "waits for a taker" }[one.stage];
  return element("p", { cls: "callout" }, `Liquidation ${one.liquidation_id} ${waits}: ${one.orders_sent} sent, closed `,
    figure(one.closed_notional), ", cost ", figure(one.cost), ".");
}
