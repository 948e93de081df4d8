// The last events as they come, some kinds of them or all; what was missed is said.

import { element, figure, find, price, time, toMs, whole } from "./dom.js";
import { open as openCard } from "./card.js";

const ROWS_MAX = 120;
// A burst of thousands is drawn a few times a second, its end only.
const DRAW_EVERY_MS = 250;
export const GROUPS = [
  { name: "Orders", types: ["liquidation_order", "collateral_sale"] },
  { name: "Liquidations", types: ["liquidation_started", "liquidation_ended"] },
  { name: "Takeovers, ADL", types: ["takeover", "adl_wave", "adl_remaining"] },
  { name: "Bad debt", types: ["bad_debt"] },
  { name: "Holds", types: ["liquidation_held", "liquidation_released"] },
  { name: "Margin calls", types: ["margin_call"] },
  { name: "Parameters", types: ["policy_changed"] },
];
// type -> what is said of it: words and figures, in turn
const TOLD = {
  liquidation_order: (e) => [e.stage, " ", e.side, " ", figure(e.qty, whole(e.qty)), ` ${e.symbol}, limit `, figure(e.limit_price, price(e.limit_price))],
  collateral_sale: (e) => ["sell ", figure(e.amount), ` ${e.asset} for ${e.for_asset}`],
  liquidation_started: (e) => [`by ${e.cause}, E `, figure(e.equity), ", MM ", figure(e.maintenance_margin)],
  liquidation_ended: (e) => [`${e.outcome.replace("_", " ")}, closed `, figure(e.closed_notional), ", cost ", figure(e.cost)],
  takeover: (e) => [`by the fund, ${e.positions.length} ${e.positions.length === 1 ? "position" : "positions"}, E `, figure(e.equity_before)],
  adl_wave: (e) => [`${e.symbol}, `, figure(e.taken_qty, whole(e.taken_qty)), ` from ${e.counterparties} counterparties`],
  adl_remaining: (e) => [`${e.symbol}, `, figure(e.qty, whole(e.qty)), " finds no counterparty"],
  bad_debt: (e) => ["deficit ", figure(e.deficit), ` ${e.asset}, uncovered `, figure(e.uncovered)],
  liquidation_held: (e) => [e.reason.replace("_", " "), e.symbol ? ` of ${e.symbol}` : ""],
  liquidation_released: (e) => [e.reason.replace("_", " "), e.symbol ? ` of ${e.symbol}` : ""],
  margin_call: (e) => ["MM / E ", e.margin_ratio === null ? "without equity" : figure(e.margin_ratio)],
  policy_changed: (e) => [`version ${e.version}: ${e.what}, ${e.crossed.length} crossed`],
  gap: (e) => [`missed numbers ${e.first_seq} to ${e.last_seq}: they stand in the topics`],
  dropped: (e) => [`too slow for numbers ${e.first_seq} to ${e.last_seq}: they stand in the topics`],
};
const LOSSES = ["gap", "dropped"];

let waiting = [], timer = null;

export function begin(onChange) {
  for (const { name } of GROUPS) {
    const box = element("input", { type: "checkbox", checked: "", value: name });
    box.addEventListener("change", onChange);
    element("label", { parent: find("kinds") }, box, name);
  }
}

export function types() {
  const chosen = [...find("kinds").querySelectorAll("input:checked")].map((box) => box.value);
  return GROUPS.filter(({ name }) => chosen.includes(name)).flatMap((group) => group.types);
}

export function clear() {
  waiting = [];
  find("ticker").replaceChildren();
  find("ticker-empty").hidden = false;
}

export function take(kind, event) {
  if (!(kind in TOLD)) return;
  waiting.push([kind, event]);
  if (waiting.length > ROWS_MAX) waiting.shift();
  timer ??= setTimeout(draw, DRAW_EVERY_MS);
}

function draw() {
  timer = null;
  const list = find("ticker");
  const held = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
  for (const [kind, event] of waiting) list.prepend(line(kind, event));
  find("ticker-empty").hidden = list.children.length > 0;
  waiting = [];
  const rows = [...list.children];
  // Not the one that somebody stands on.
  for (const node of rows.slice(ROWS_MAX)) if (node !== held) node.remove();
}

function line(kind, event) {
  const isLoss = LOSSES.includes(kind);
  const node = element("li", { cls: `event ${kind}`, "data-seq": event.seq ?? "" });
  if (!isLoss) element("time", { parent: node, text: time(toMs(event.ts), { millis: true }) });
  element("span", { cls: "tag", parent: node, text: kind.replaceAll("_", " ") });
  if (event.account) element("button", { type: "button", cls: "open", parent: node, text: event.account })
    .addEventListener("click", () => openCard(event.account));
  element("span", { cls: "told", parent: node }, ...TOLD[kind](event));
  return node;
}
