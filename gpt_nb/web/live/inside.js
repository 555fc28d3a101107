// Chapter 13: what one head of the model `growing` takes from each token of the reader's text, and
// what the model would say after each layer.
import { Inside, likeliest } from "../inside.js";
import { escape, model } from "./figure.js";

export const press = "Look inside a text of yours: fetches 0.5 MB";

const percent = (share) => `${(100 * share).toFixed(2)}%`;
const shade = (share) => `rgba(76,120,168,${(0.7 * Math.sqrt(share)).toFixed(2)})`;

export async function view({ text, asks, layer, head }, data, { say, pause }) {
  const fetching = (part) => say(`<p>fetching the model: ${percent(part)}</p>`);
  const grown = await model("growing-003000", fetching), { tok } = grown;
  const inside = new Inside(grown), ids = [tok.endId, ...tok.encode(text)].slice(0, asks + 1);
  for (const id of ids) { inside.feed(id); await pause(); }
  const last = ids.length - 1, word = (id) => escape(tok.decode([id]).trim());
  const takes = Array.from(inside.look(layer, head, last), (share, t) =>
    `<tr><th>${t ? word(ids[t]) : "◦"}<td style="background:${shade(share)}">${share.toFixed(4)}`);
  const stages = inside.streams.map((_, l) => {
    const [[id, share]] = likeliest(inside.lens(l, last));
    const place = l ? `after layer ${l - 1}` : "embedding";
    return `<tr><th>${place}<td>${word(id)}<td>${share.toFixed(4)}`;
  });
  return `<table class="dataframe"><tr><td><th>guess<th>share${stages.join("")}</table>` +
    `<table class="dataframe"><tr><td><th>taken${takes.join("")}</table>`;
}
