// Reads the page of metrics (the text format of Prometheus), as far as this page needs it.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

export function parse(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const [, name, inner, value] = LINE.exec(line) ?? [];
    if (name === undefined) continue;
    const labels = {};
    for (const [, key, raw] of (inner ?? "").matchAll(LABEL)) labels[key] = raw.replace(/\\./g, (two) => ESCAPED[two] ?? two);
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels, value: Number(value.replace("Inf", "Infinity")) });
  }
  return families;
}

export function series(families, name, shard) {
  return (families.get(name) ?? []).filter(({ labels }) => labels.shard === undefined || labels.shard === String(shard));
}

// The buckets of a histogram of one shard: [upper bound, how many at most that long], rising.
export function buckets(families, name, shard) {
  return series(families, `${name}_bucket`, shard)
    .map(({ labels, value }) => [Number(labels.le.replace("Inf", "Infinity")), value])
    .sort(([a], [b]) => a - b);
}

// What came between two looks; all there is where there was none before, or the process began anew.
export function since(now, before) {
  const isNew = !before || before.length !== now.length || now.some(([, count], index) => count < before[index][1]);
  return isNew ? now : now.map(([bound, count], index) => [bound, count - before[index][1]]);
}

// The quantile as histogram_quantile finds it: on a straight line within its bucket. NaN where nothing was counted.
export function quantile(counts, part) {
  const total = counts.at(-1)?.[1] ?? 0;
  if (!total) return NaN;
  const rank = part * total;
  let [below, seen] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank) return bound === Infinity ? below : below + ((bound - below) * (rank - seen)) / (count - seen || 1);
    [below, seen] = [bound, count];
  }
  return below;
}
