// Whether what a panel shows is LIVE or STALE, and of when it is.
//
// A source is LIVE while it answers and its data moves: the clock of a shard that gets inputs goes on. It is STALE once
// the connection is lost, and once no answer came, or the same data came again, for longer than its bound.

import { element, time, day } from "./dom.js";

export const INPUT_BOUND_MS = 10_000;
// Metrics are asked for every five seconds.
export const METRICS_BOUND_MS = 20_000;
// A survey of a million accounts takes about a minute, and begins again two seconds after its end.
export const surveyBound = (rows) => 15_000 + 0.12 * rows;
// The stream of events gives a sign of life every ten seconds.
export const STREAM_BOUND_MS = 25_000;

export class Source {
  constructor(name, boundMs) {
    this.name = name;
    this.boundMs = boundMs;
    this.answered = this.moved = null;
    this.dataMs = null;
    this.trouble = null;
    // Of a stream: a quiet one is fine.
    this.mayRest = false;
  }

  // An answer came, of data that is of `dataMs` on the clock of the shard; null where it has none yet.
  took(dataMs, boundMs = this.boundMs) {
    const now = performance.now();
    if (this.moved === null || this.mayRest || dataMs !== this.dataMs) this.moved = now;
    this.answered = now;
    this.dataMs = dataMs;
    this.boundMs = boundMs;
    this.trouble = null;
  }

  failed(trouble) {
    this.trouble = trouble;
  }

  // Forgets what was shown: another shard, another account.
  begin() {
    this.answered = this.moved = this.dataMs = this.trouble = null;
  }

  state() {
    const now = performance.now();
    if (this.trouble !== null) return [this.answered === null ? "wait" : "stale", this.trouble];
    if (this.answered === null) return ["wait", "no answer yet"];
    const silent = now - this.answered, still = now - this.moved;
    if (silent > this.boundMs) return ["stale", `no answer for ${Math.round(silent / 1000)} s`];
    if (still > this.boundMs) return ["stale", `the same for ${Math.round(still / 1000)} s`];
    return ["live", `stale after ${Math.round(this.boundMs / 1000)} s`];
  }
}

export const WORDS = { live: "LIVE", stale: "STALE", wait: "WAITING" };

// Writes the state of each source wherever it is shown; returns the worst of those that count for the page.
export function showFreshness(sources) {
  let worst = "live", why = "";
  for (const node of document.querySelectorAll(".fresh")) {
    const source = sources[node.dataset.source];
    const [state, text] = source.state();
    label(node, source, state, text);
    const counts = node.closest("dialog") === null;
    if (counts && (state === "stale" || (state === "wait" && worst === "live"))) [worst, why] = [state, text];
  }
  return [worst, why];
}

function label(node, source, state, text) {
  if (!node.firstChild) {
    element("span", { cls: "badge", parent: node });
    element("time", { parent: node });
    element("span", { cls: "why", parent: node });
  }
  const [badge, at, why] = node.children;
  write(badge, WORDS[state]);
  write(at, source.dataMs === null ? "" : `${time(source.dataMs, { millis: true })} UTC`);
  write(why, text);
  if (node.dataset.state !== state) node.dataset.state = badge.dataset.state = state;
  if (source.dataMs === null || Number(node.dataset.ms) === source.dataMs) return;
  node.dataset.ms = source.dataMs;
  at.dateTime = new Date(source.dataMs).toISOString();
  at.title = day(source.dataMs);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
