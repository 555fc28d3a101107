// The picture of the loss: curves of what was trained on, marks of what was not, lines to reach.

const MARGIN = { left: 30, right: 8, top: 8, bottom: 34 };

// Round steps so that about `n` lie between 0 and `most`.
function ticks(most, n) {
  const rough = most / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((round) => round * power >= rough) * power;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => i * step);
}

// How far the axes reach: twice as far whenever the updates do not fit any more.
function reach(records) {
  const updates = Math.max(0, ...records.map((record) => record.update));
  const losses = records.flatMap((record) => record.curve.map(([, loss]) => loss));
  const high = Math.max(5.4, ...losses.filter(Number.isFinite));
  return [100 * 2 ** Math.max(0, Math.ceil(Math.log2(updates / 100))), Math.min(high, 30)];
}

// lines: [{name, label, loss}]; words: {updates}
export function drawChart(box, records, lines, words) {
  const width = Math.max(box.clientWidth, 200), height = Math.min(300, 180 + width / 4);
  const [far, high] = reach(records);
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const x = (update) => MARGIN.left + (update / far) * (right - MARGIN.left);
  const y = (loss) => {
    const inside = Number.isFinite(loss) ? Math.min(loss, high) : high;
    return bottom - (inside / high) * (bottom - MARGIN.top);
  };
  const parts = [];
  for (const loss of ticks(high, 5)) {
    parts.push(`<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${y(loss)}" ` +
      `y2="${y(loss)}"/><text x="${MARGIN.left - 6}" y="${y(loss) + 4}" ` +
      `text-anchor="end">${loss}</text>`);
  }
  for (const update of ticks(far, 4)) {
    const anchor = update === far ? "end" : "middle";
    parts.push(`<text x="${x(update)}" y="${bottom + 15}" text-anchor="${anchor}">` +
      `${update}</text>`);
  }
  parts.push(`<text x="${right}" y="${bottom + 29}" text-anchor="end">${words.updates}</text>`);
  let under = bottom + 10;      // labels from below upwards, each clear of the one below it
  for (const { name, label, loss } of [...lines].sort((a, b) => a.loss - b.loss)) {
    under = Math.min(y(loss) + 13, under - 13);
    parts.push(`<line class="line ${name}" x1="${MARGIN.left}" x2="${right}" y1="${y(loss)}" ` +
      `y2="${y(loss)}"/><text class="label" x="${right - 2}" y="${under}" ` +
      `text-anchor="end">${label}</text>`);
  }
  for (const { kind, curve, looks } of records) {
    const points = curve.map(([update, loss]) => `${x(update).toFixed(1)},${y(loss).toFixed(1)}`);
    parts.push(`<polyline class="curve ${kind}" points="${points.join(" ")}"/>`);
    for (const { update, loss } of looks) parts.push(mark(kind, x(update), y(loss)));
  }
  box.innerHTML = `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `aria-hidden="true">${parts.join("")}</svg>`;
}

function mark(kind, x, y) {
  if (kind === "gpt") return `<circle class="mark gpt" cx="${x}" cy="${y}" r="4"/>`;
  return `<rect class="mark bigram" x="${x - 3.5}" y="${y - 3.5}" width="7" height="7"/>`;
}
