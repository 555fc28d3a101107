// Chapter 01: the merges of a tokenizer on the reader's text, one after the other.
import { Tokenizer } from "../engine.js";
import { escape } from "./figure.js";

const COLOURS = ["#cfe8ff", "#ffe0b3", "#d5f2d0", "#f6d0e8", "#e3d9ff", "#fff3c4"];
const known = new WeakMap();

function tokenizerOf(data) {
  if (!known.has(data)) known.set(data, new Tokenizer(data));
  return known.get(data);
}

// The rank of the merge that comes next: the lowest of all pairs in all pieces.
function nextRank(tok, pieces) {
  let best = Infinity;
  for (const ids of pieces) {
    for (let i = 0; i + 1 < ids.length; i++) {
      best = Math.min(best, tok.ranks.get(tok.pair(ids[i], ids[i + 1])) ?? Infinity);
    }
  }
  return best;
}

function mergeOne(ids, [a, b], made) {                 // wherever the pair stands, from the left
  const merged = [];
  for (let i = 0; i < ids.length; i++) {
    const here = ids[i] === a && ids[i + 1] === b;
    merged.push(here ? made : ids[i]);
    if (here) i++;
  }
  return merged;
}

// A token as text; one that is no whole character as its bytes.
function shown(tok, id) {
  const text = tok.decode([id]);
  if (!text.includes("\ufffd")) {
    return escape(text).replaceAll(" ", "&nbsp;").replaceAll("\n", "⏎<br>");
  }
  return `<i>${Array.from(tok.bytes(id), (b) => b.toString(16).padStart(2, "0")).join("")}</i>`;
}

export async function view({ text, merges }, data, { pause }) {
  const tok = tokenizerOf(data), bytes = new TextEncoder();
  if (/\p{Surrogate}/u.test(text)) throw new Error("half of a surrogate pair is no text");
  let pieces = (text.match(tok.pattern) ?? []).map((piece) => [...bytes.encode(piece)]);
  let rank = nextRank(tok, pieces), n = 0;
  for (; n < merges && rank < Infinity; n++) {
    const [a, b] = tok.merges[rank], made = tok.ids.get(tok.pieces[a] + tok.pieces[b]);
    pieces = pieces.map((ids) => mergeOne(ids, [a, b], made));
    rank = nextRank(tok, pieces);
    await pause();
  }
  const boxes = pieces.flat().map((id, k) =>
    `<b style="background:${COLOURS[k % 6]}">${shown(tok, id)}</b>`);
  const pair = rank < Infinity && tok.merges[rank].map((id) => shown(tok, id));
  const next = pair ? `next is number ${rank} of ${tok.merges.length}: ` +
    `<code>${pair[0]}</code> and <code>${pair[1]}</code>` : "no more apply";
  const all = `${boxes.join("")} &nbsp; ${boxes.length} tokens`;
  return `<pre style="color:#111;background:#fff;white-space:normal;line-height:1.8">${all}</pre>` +
    `<p>After ${n} merges; ${next}</p>`;
}
