// Chapter 05: how much a word of the reader's text takes from each word before it, head by head.
import { Tokenizer, linear, rope, softmax } from "../engine.js";
import { escape } from "./figure.js";

const opened = new WeakMap();

function open(data) {                                  // the weights come as text
  if (!opened.has(data)) {
    const read = (text) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      return new Float32Array(bytes.buffer);
    };
    const [embed, query, key] = data.weights.map(read);
    opened.set(data, { ...data, embed, query, key, tok: new Tokenizer(data.tokenizer) });
  }
  return opened.get(data);
}

// Queries or keys: (T, D) -> (T, H K), each head turned by the place of its word.
function turned(rows, weight, frequencies) {
  const K = 2 * frequencies.length;
  return rows.map((row, t) => {
    const y = linear({ weight }, row), angles = frequencies.map((frequency) => t * frequency);
    for (let start = 0; start < y.length; start += K) {
      rope(y.subarray(start, start + K), angles.map(Math.cos), angles.map(Math.sin));
    }
    return y;
  });
}

// Of each head, how much the last word takes from each: (H, T).
function look(ids, temperature, { embed, query, key, frequencies, width: D }) {
  const K = 2 * frequencies.length;
  const rows = ids.map((id) => embed.subarray(id * D, (id + 1) * D));
  const q = turned(rows, query, frequencies).at(-1), k = turned(rows, key, frequencies);
  return Array.from({ length: q.length / K }, (_, head) => {
    const score = (row) => {
      let sum = 0;
      for (let i = head * K; i < (head + 1) * K; i++) sum += q[i] * row[i];
      return sum / Math.sqrt(K) / temperature;
    };
    const shares = Float32Array.from(k, score);
    softmax(shares);
    return shares;
  });
}

export function view({ text, asks, temperature }, data) {
  const model = open(data), { tok } = model;
  const ids = [tok.endId, ...tok.encode(text)].slice(0, asks + 1);
  const heads = look(ids, temperature, model);
  const rows = ids.map((id, t) => {
    const cells = heads.map((shares) => `<td style="background:rgba(76,120,168,` +
      `${(0.7 * Math.sqrt(shares[t])).toFixed(2)})">${shares[t].toFixed(4)}`);
    return `<tr><th>${t ? escape(tok.decode([id]).trim()) : "◦"}${cells.join("")}`;
  });
  const names = heads.map((_, head) => `<th>head ${head}`);
  return `<table class="dataframe"><tr><td>${names.join("")}${rows.join("")}</table>`;
}
