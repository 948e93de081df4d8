// The page's clockwork: what is asked how often, what happens when there is no answer, and who may see any of it.

import { Problem, ask, askText, dropToken, hasToken, keepToken, stream } from "./api.js";
import * as card from "./card.js";
import { day, element, find, time, toMs } from "./dom.js";
import { parse } from "./exposition.js";
import { INPUT_BOUND_MS, METRICS_BOUND_MS, STREAM_BOUND_MS, Source, WORDS, showFreshness, surveyBound } from "./fresh.js";
import * as heat from "./heat.js";
import * as panels from "./panels.js";
import * as ticker from "./ticker.js";

const RETRY_MS = 1_000;
const SHOW_EVERY_MS = 250;
// The stream begins so many outputs before the last one: what led here.
const EVENTS_BEFORE = 300;
const sources = {};
for (const name of ["status", "marks", "liquidations", "fund", "riskiest", "heatmap", "account"]) sources[name] = new Source(name, INPUT_BOUND_MS);
sources.metrics = new Source("metrics", METRICS_BOUND_MS);
sources.events = new Source("events", STREAM_BOUND_MS);
sources.events.mayRest = true;

let shard = null, isPaused = false, said = "live";
const polls = [];

// A question that is asked again and again; `answer` asks, shows, and returns the data's time and its bound.
class Poll {
  constructor(source, everyMs, answer) {
    Object.assign(this, { source, everyMs, answer, timer: null, turn: 0 });
    polls.push(this);
  }

  // Asks at once, whatever was under way.
  async again() {
    clearTimeout(this.timer);
    const turn = ++this.turn, is = () => turn === this.turn;
    let waitMs = this.everyMs;
    try {
      const found = await this.answer(is);
      if (found && is()) {
        this.source.took(...found);
        // At once: no figure stands beside the time of another.
        show();
      }
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      waitMs = is() ? trouble(error, this.source) : waitMs;
    } finally {
      if (is() && waitMs !== null) this.timer = setTimeout(() => this.again(), waitMs);
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.turn += 1;
  }
}

// Says what keeps a source from answering; returns when to ask again, null where somebody has to do something first.
function trouble(error, source) {
  if (error.status === 401) {
    askForToken();
    return null;
  }
  // Asked too often: what is shown ages, and says so itself.
  if (error.status !== 429) source.failed(error.message);
  return Math.max(RETRY_MS, error.retryMs);
}

const of = (path) => `${path}${path.includes("?") ? "&" : "?"}shard=${shard}`;

function each(path, show, boundOf) {
  return async (is) => {
    if (shard === null) return null;
    const { shards: [found] } = await ask(of(path()));
    if (!is()) return null;
    show(found);
    // A survey values everybody at the prices in force when it began.
    return boundOf ? [toMs(found.survey_began), boundOf(found)] : [toMs(found.ts)];
  };
}

const statusPoll = new Poll(sources.status, 1_000, async (is) => {
  const [found, ready] = await Promise.all([ask("/v1/status"), ask("/readyz", { allowed: 503 })]);
  if (!is()) return null;
  chooseShard(found.shards);
  panels.status(found, ready);
  const own = found.shards.find((one) => one.shard === shard);
  if (own?.ts === undefined) throw new Problem(503, `shard ${shard} is ${own?.state ?? "another process's"}`);
  find("clock").textContent = own.ts ? `${day(toMs(own.ts))}, ${time(toMs(own.ts))} UTC` : "no input yet";
  return [toMs(own.ts)];
});
new Poll(sources.marks, 1_000, each(() => "/v1/marks", (found) => { panels.marks(found); listSymbols(found.marks); }));
new Poll(sources.liquidations, 1_000, each(() => "/v1/liquidations", panels.liquidations));
new Poll(sources.fund, 1_000, each(() => "/v1/insurance-fund?limit=1", panels.fund));
let rowsCount = 0;
new Poll(sources.riskiest, 2_000, each(() => "/v1/accounts/riskiest", (found) => { rowsCount = found.rows; panels.riskiest(found); }, (found) => surveyBound(found.rows)));
const heatPoll = new Poll(sources.heatmap, 2_000, each(() => {
  const symbol = find("symbol").value;
  return symbol ? `/v1/heatmap?symbol=${encodeURIComponent(symbol)}` : "/v1/heatmap";
}, heat.show, () => surveyBound(rowsCount)));
new Poll(sources.metrics, 5_000, async (is) => {
  if (shard === null) return null;
  const families = parse(await askText("/metrics"));
  return is() ? [panels.metrics(families, shard)] : null;
});
const cardPoll = new Poll(sources.account, 1_000, async (is) => {
  if (card.shown() === null) return null;
  try {
    const found = await ask(`/v1/accounts?account=${encodeURIComponent(card.shown())}`);
    if (!is()) return null;
    card.show(found);
    return [toMs(found.ts)];
  } catch (error) {
    if (error instanceof Problem && [404, 421].includes(error.status) && is()) card.fail(error.message);
    throw error;
  }
});

// The stream of events, resumed after what was last read.
let streaming = null, after = "", begins = true;
async function follow() {
  streaming?.abort();
  const own = (streaming = new AbortController()), chosen = ticker.types();
  while (!own.signal.aborted && shard !== null) {
    if (!chosen.length) return sources.events.failed("no kind is chosen");
    try {
      const heard = () => { if (!own.signal.aborted) sources.events.took(sources.events.dataMs); };
      const take = (kind, event, id) => {
        if (own.signal.aborted) return;
        after = id;
        // What is gone of the time before the page was opened is not missed.
        if (begins && kind === "gap") return;
        begins = false;
        if (event.ts !== undefined) sources.events.took(toMs(event.ts));
        ticker.take(kind, event);
      };
      const end = await stream(of(`/v1/events?type=${chosen.join()}`), { after, signal: own.signal, heard, take });
      // One that was left for another has no say any more in where that goes on.
      if (own.signal.aborted) return;
      after = end;
      sources.events.failed("the stream ended");
    } catch (error) {
      if (own.signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      sources.events.failed(error.message);
      if (trouble(error, sources.events) === null) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

// Choices.

let shards = [];
function chooseShard(list) {
  shards = list;
  const numbers = list.map((one) => one.shard);
  const choice = find("shard");
  if (choice.options.length !== numbers.length) {
    choice.replaceChildren(...numbers.map((number) => element("option", { value: number, text: String(number) })));
    find("shard-choice").hidden = numbers.length < 2;
  }
  if (shard === null || !numbers.includes(shard)) setShard(list.find((one) => one.state === "live") ?? list[0]);
}

function setShard(one) {
  shard = one.shard;
  find("shard").value = shard;
  for (const source of Object.values(sources)) source.begin();
  after = `${shard}:${Math.max(0, one.seq - EVENTS_BEFORE)}`;
  begins = true;
  ticker.clear();
  panels.begin();
  heat.forget();
  resume({ but: statusPoll });
}

function listSymbols(marks) {
  const choice = find("symbol"), names = marks.map((one) => one.symbol).sort();
  if (choice.options.length === names.length + 1) return;
  const kept = choice.value;
  choice.replaceChildren(choice.options[0], ...names.map((name) => element("option", { value: name, text: name })));
  choice.value = names.includes(kept) ? kept : "";
}

function resume({ but } = {}) {
  if (isPaused || find("gate").open) return;
  for (const poll of polls) if (poll !== but) poll.again();
  follow();
}

function halt(reason) {
  for (const poll of polls) poll.stop();
  streaming?.abort();
  for (const source of Object.values(sources)) source.failed(reason);
}

function pause() {
  isPaused = !isPaused;
  find("pause").setAttribute("aria-pressed", String(isPaused));
  find("pause").textContent = isPaused ? "Go on" : "Pause";
  isPaused ? halt("paused here") : resume();
}

// The token.

function askForToken() {
  if (find("gate").open) return;
  const wrong = hasToken();
  dropToken();
  halt("the token is missing");
  find("gate-wrong").textContent = wrong ? "That is not the token." : "";
  find("card").close();
  find("gate").showModal();
}

find("gate").addEventListener("cancel", (event) => event.preventDefault());
find("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(find("token").value);
  find("token").value = "";
  find("gate").close();
  resume();
});

// What is shown of it all.

function show() {
  const [state, why] = showFreshness(sources);
  const badge = find("overall");
  if (badge.dataset.state !== state || badge.title !== why) {
    badge.dataset.state = state;
    badge.textContent = WORDS[state];
    badge.title = why;
  }
  if (state === said) return;
  said = state;
  find("announce").textContent = state === "live" ? "All panels are live." : state === "stale" ? `Some figures are stale: ${why}.` : "";
}

find("pause").addEventListener("click", pause);
find("shard").addEventListener("change", () => setShard(shards.find((one) => one.shard === Number(find("shard").value))));
find("symbol").addEventListener("change", () => {
  sources.heatmap.begin();
  heat.choose(find("symbol").value);
  heatPoll.again();
});
ticker.begin(follow);
card.begin(() => {
  sources.account.begin();
  card.shown() === null ? cardPoll.stop() : cardPoll.again();
});
// A page that nobody sees asks nothing, and is up to date as soon as somebody does.
document.addEventListener("visibilitychange", () => {
  if (isPaused || find("gate").open) return;
  document.hidden ? halt("not looked at") : resume();
});
setInterval(show, SHOW_EVERY_MS);
statusPoll.again();
