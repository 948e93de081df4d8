// How the page asks the engine: with the token where there is one, an answer or an error that says what to do.

const TOKEN = "liq-engine-token";
export const POLL_TIMEOUT_MS = 8_000;

export class Problem extends Error {
  // status 0: no answer at all.
  constructor(status, detail, retryMs = 0) {
    super(detail);
    this.status = status;
    this.retryMs = retryMs;
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const dropToken = () => sessionStorage.removeItem(TOKEN);

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token === null ? more : { ...more, Authorization: `Bearer ${token}` };
}

async function request(path, options) {
  try {
    return await fetch(path, { cache: "no-store", headers: headers(), ...options });
  } catch (error) {
    if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw error;
    throw new Problem(0, "connection lost");
  }
}

async function refusal(response) {
  const retryMs = 1000 * Number(response.headers.get("Retry-After") ?? 0);
  const body = await response.json().catch(() => ({}));
  return new Problem(response.status, body.detail ?? `${response.status} ${response.statusText}`, retryMs);
}

// One question at a time: the engine's decisions go before ours, and all at once would use up what it grants.
let last = Promise.resolve();
function inTurn(question) {
  last = last.then(question, question);
  return last;
}

// Returns the document at `path`; `allowed` is another status whose body is one, too.
export function ask(path, { allowed = 200 } = {}) {
  return inTurn(() => answer(path, allowed, "json"));
}

export function askText(path) {
  return inTurn(() => answer(path, 200, "text"));
}

async function answer(path, allowed, kind) {
  const response = await request(path, { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
  if (response.status !== 200 && response.status !== allowed) throw await refusal(response);
  return response[kind]().catch(() => { throw new Problem(0, "connection lost"); });
}

// Reads server-sent events until the stream ends: `heard` at every sign of life, `take` for each event.
// An EventSource cannot send the token, so this is one made of fetch. Returns the id to go on after.
export async function stream(path, { after, signal, heard, take }) {
  const more = after ? { "Last-Event-ID": after } : {};
  const response = await request(path, { headers: headers(more), signal });
  if (response.status !== 200) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const event = { id: after, kind: "message", data: "" };
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal.aborted) return event.id;
      throw new Problem(0, "connection lost");
    }
    if (part.done) return event.id;
    heard();
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) follow(line, event, take);
  }
}

function follow(line, event, take) {
  const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
  if (name === "id") event.id = value;
  if (name === "event") event.kind = value;
  if (name === "data") event.data = value;
  if (line !== "") return;
  if (event.data) take(event.kind, JSON.parse(event.data), event.id);
  event.kind = "message";
  event.data = "";
}
