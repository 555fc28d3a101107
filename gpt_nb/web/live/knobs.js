// Chapter 10: one distribution, and what temperature, cuts and penalty make of it.
import { probabilities } from "../engine.js";

const bar = (share) => `<svg width="${(100 * share).toFixed(1)}" height="10" aria-hidden="true">` +
  `<rect width="100%" height="10" fill="#4c78a8"/></svg>`;

export function view({ temperature, top_k: topK, top_p: topP, min_p: minP, penalty }, data) {
  const { words, logits, used } = data;
  const before = probabilities(logits);
  const now = probabilities(logits, { temperature, topK, topP, minP, penalty, used });
  const bits = now.reduce((sum, p) => sum - (p && p * Math.log2(p)), 0);
  const rows = words.map((word, i) => `<tr><th>${word}<td>${before[i].toFixed(4)}` +
    `<td>${now[i].toFixed(4)}<td>${bar(now[i])}`);
  return `<table class="dataframe"><tr><td><th>the model<th>drawn from<th>${rows.join("")}` +
    `</table><p>${now.filter((p) => p > 0).length} words left, ${bits.toFixed(4)} bits</p>`;
}
