// A text that a model reads and writes, and what may come at each of its places. Nothing here
// touches the page; playground.js shows it.
import { Session, probabilities } from "./engine.js";
import { turn } from "./turn.js";

export const LEAST = 0.0005;   // what is rarer is counted, not listed
const WORTH = 0.01;            // a piece of a word that is likelier than this is followed further
const LOOKS = 24;              // at most so many times
const toUTF8 = new TextEncoder(), fromUTF8 = new TextDecoder();

// A string with one character for each byte, as the tokenizer keeps its tokens.
export const asString = (text) => String.fromCharCode(...toUTF8.encode(text));
const asText = (bytes) => fromUTF8.decode(Uint8Array.from(bytes, (c) => c.charCodeAt(0)));

// Bytes as the whole characters they begin with, and what is left of a character that is cut.
export function splitWhole(bytes) {
  for (let cut = 1; cut <= Math.min(3, bytes.length); cut++) {
    const byte = bytes.charCodeAt(bytes.length - cut);
    if (byte < 0x80) break;
    if (byte < 0xC0) continue;                       // inside a character: look for its first byte
    const needs = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    if (needs > cut) return [bytes.slice(0, -cut), bytes.slice(-cut)];
    break;
  }
  return [bytes, ""];
}

// A text token by token, with the scores that followed each.
export class Writing {
  constructor(model) {
    this.tok = model.tok, this.config = model.config;
    this.session = new Session(model);               // has read all that fits of the text
    this.probe = new Session(model);                 // reads an earlier place again
    this.first = model.config.bos_token_id ?? model.tok.endId;
    this.ids = [], this.scores = [], this.typed = "", this.typedIds = [];
    this.pieces = new Map();
  }

  // The bytes of a token, as a string.
  piece(id) {
    if (!this.pieces.has(id)) this.pieces.set(id, String.fromCharCode(...this.tok.bytes(id)));
    return this.pieces.get(id);
  }

  get over() { return this.ids.length > 1 && this.ids.at(-1) === this.tok.endId; }
  get half() { return Boolean(this.groups.at(-1).half); }   // whether a character is cut
  get full() { return this.ids.length > this.session.length; }
  get written() { return this.ids.length - this.typedIds.length - 1; }

  // Read the first token and the beginning that was typed, in turns; false where it was stopped.
  async begin(typed, ids, signal) {
    this.cut(0);
    this.typed = typed, this.typedIds = ids;
    return this.readAll([this.first, ...ids], signal);
  }

  async readAll(ids, signal) {
    for (const id of ids) {
      this.add(id);
      await turn();
      if (signal.aborted) return false;
    }
    return true;
  }

  // One more token at the end.
  add(id) {
    const fits = !this.full && this.session.length < this.config.context;
    this.grouped = null;
    this.ids.push(id);
    if (fits && !this.over) this.scores.push(this.session.feed(id));
  }

  // Keep the first n tokens.
  cut(n) {
    const before = this.textBefore(n)[0];
    this.grouped = null;
    this.ids.length = Math.min(n, this.ids.length);
    this.scores.length = Math.min(n, this.scores.length);
    this.session.back(Math.max(0, this.session.length - n));
    if (n <= this.typedIds.length) {
      this.typed = before;
      this.typedIds = this.ids.slice(1);
    }
  }

  // Tokens that end on whole characters only together, as [{from, to, text}]; the first and the
  // last token of a story have no text.
  get groups() { return this.grouped ??= this.group(); }

  group() {
    const { ids, tok } = this, groups = [{ from: 0, to: 1, text: "", mark: "start" }];
    let from = 1, bytes = "";
    for (let i = 1; i < ids.length; i++) {
      if (ids[i] === tok.endId) {
        groups.push({ from: i, to: i + 1, text: "", mark: "end" });
        from = i + 1;
        continue;
      }
      bytes += this.piece(ids[i]);
      const whole = splitWhole(bytes)[1] === "";
      if (!whole && i + 1 < ids.length && ids[i + 1] !== tok.endId) continue;
      const text = asText(splitWhole(bytes)[0]) + (whole ? "" : "…");
      groups.push({ from, to: i + 1, text, half: !whole && i + 1 === ids.length });
      from = i + 1, bytes = "";
    }
    return this.unknowns(groups);
  }

  // What the tokenizer did not know is shown as it was typed.
  unknowns(groups) {
    const { ids, tok, typed, typedIds } = this;
    if (tok.unknown == null || !typedIds.includes(tok.unknown)) return groups;
    let at = 0;
    for (const [i, group] of groups.entries()) {
      if (group.from < 1 || group.from > typedIds.length) continue;
      if (ids[group.from] === tok.unknown) {
        const next = groups[i + 1];
        const known = next && next.from <= typedIds.length && ids[next.from] !== tok.unknown;
        const pieces = typed.slice(at).match(/^\s?\S+|^\s+/u);
        const end = known ? typed.indexOf(next.text, at + 1) : at + (pieces?.[0].length ?? 0);
        group.text = typed.slice(at, end < 0 ? typed.length : end);
        group.mark = "unknown";
      }
      at += group.text.length;
    }
    return groups;
  }

  // The text before a token, and the bytes of a character that the token goes on with.
  textBefore(place) {
    let text = "";
    for (const { from, to, text: own, half } of this.groups) {
      if (to <= place && !half) { text += own; continue; }
      if (from >= place) break;
      const bytes = this.ids.slice(from, place).map((id) => this.piece(id)).join("");
      const [whole, rest] = splitWhole(bytes);
      return [text + asText(whole), rest];
    }
    return [text, ""];
  }

  get text() { return this.groups.map((group) => group.text).join(""); }

  // Scores for what follows after the tokens before `place` and then `more`.
  async look(place, more, signal) {
    if (!more.length) return this.scores[place - 1];
    let session = this.session;
    if (session.length !== place) session = await this.readAgain(place, signal);
    if (signal.aborted) return null;
    if (place + more.length > this.config.context) return null;
    let scores = null;
    for (const id of more) scores = session.feed(id);
    session.back(more.length);
    return scores;
  }

  // The probe, having read the tokens before `place` and no others. Between two turns somebody
  // else may have used it.
  async readAgain(place, signal) {
    const { probe, ids } = this;
    while (!signal.aborted) {
      let same = 0;
      while (same < Math.min(place, probe.length) && probe.ids[same] === ids[same]) same++;
      probe.back(probe.length - same);
      if (probe.length === place) break;
      probe.feed(ids[probe.length]);
      await turn();
    }
    return probe;
  }

  // How much the token before `place` takes from each token up to itself.
  attention(place, layer, head) {
    return this.session.attention(layer, head)[place - 1];
  }
}

// The words that may truly come at a place, up to their ends: {text, bytes, share, end}. Empty
// where the world cannot have told the beginning; null where no world is known.
export function wordsAt(writing, place, world) {
  if (!world) return null;
  const [text, rest] = writing.textBefore(place), words = [];
  for (const [missing, share] of world.begun(text)) {
    const end = missing === "<|end|>", bytes = end ? "" : asString(missing);
    if (!end && !bytes.startsWith(rest)) continue;
    words.push({ text: end ? "" : missing, bytes: bytes.slice(rest.length), share, end });
  }
  const total = words.reduce((sum, word) => sum + word.share, 0);
  for (const word of words) word.share /= total;
  return words;
}

// What may come at a place: rows {text, ids, model, drawn, truth, end}. A row is a word of the
// truth, or else a piece that the model would write; `model` is the share that the model gives to
// all that goes on with it, `drawn` the same after temperature, top-k and so on, `truth` that of
// the world. A word may be several tokens, and a token several words: so all three are followed
// token by token until each way has become a word.
export class Options {
  constructor(writing, place, world, settings) {
    Object.assign(this, { writing, place, world, settings, looks: 0, rows: new Map() });
    this.rest = writing.textBefore(place)[1];
    this.words = wordsAt(writing, place, world);
    for (const word of this.words ?? []) this.row(word.end ? "end" : word.bytes, word);
    this.longestFirst = (this.words ?? []).filter((word) => !word.end)
      .sort((a, b) => b.bytes.length - a.bytes.length);
    this.open = [{ ids: [], bytes: "", model: 1, drawn: 1, truth: 1 }];
  }

  // "tokens": the truth after the very tokens of the text. "words": after its characters only, for
  // no story has these tokens (the beginning stops inside one). "": there is none.
  get kind() {
    if (!this.words?.length) return "";
    return this.known ??= this.truth([]).size ? "tokens" : "words";
  }

  // The true shares of the tokens after those before the place and then `more`.
  truth(more) {
    const { writing, place } = this, ids = [...writing.ids.slice(1, place), ...more];
    return this.words?.length ? this.world.nextTokens(writing.tok, ids) : new Map();
  }

  row(key, { text, end = false }) {
    if (!this.rows.has(key)) {
      const none = { ids: null, best: 0, more: "", model: 0, drawn: 0, truth: 0 };
      this.rows.set(key, { text, end, ...none });
    }
    return this.rows.get(key);
  }

  // Follow the likely pieces until each has become a word; null where it was stopped.
  async find(signal) {
    while (this.open.length) {
      const at = this.open.shift();
      const scores = await this.writing.look(this.place, at.ids, signal);
      if (signal.aborted) return null;
      if (scores) this.spread(at, scores);
      this.open.sort((a, b) => likeliest(b) - likeliest(a));
      if (this.open.length) await turn();
    }
    if (this.kind === "words") this.tellWords();
    return [...this.rows.values()].filter((row) => likeliest(row) >= LEAST);
  }

  tellWords() {
    for (const word of this.words) this.rows.get(word.end ? "end" : word.bytes).truth = word.share;
  }

  spread(at, scores) {
    const p = probabilities(scores), q = probabilities(scores, this.settings);
    const t = this.kind === "tokens" ? this.truth(at.ids) : new Map(), { tok } = this.writing;
    for (let id = 0; id < p.length; id++) {
      const model = at.model * p[id], drawn = at.drawn * q[id], truth = at.truth * (t.get(id) ?? 0);
      if (likeliest({ model, drawn, truth }) < LEAST) continue;
      const bytes = at.bytes + this.writing.piece(id);
      this.put({ ids: [...at.ids, id], end: id === tok.endId, model, drawn, truth, bytes });
    }
  }

  // Count a piece where it belongs: to the word it says, or those it may become, or for itself.
  put(piece) {
    if (piece.end) return this.count(this.row("end", { text: "", end: true }), piece);
    const said = this.longestFirst.find((word) => piece.bytes.startsWith(word.bytes));
    if (said) return this.count(this.rows.get(said.bytes), piece);
    const may = this.longestFirst.filter((word) => word.bytes.startsWith(piece.bytes));
    const whole = splitWhole(this.rest + piece.bytes)[1] === "";
    if ((may.length || !whole) && likeliest(piece) >= WORTH && this.looks++ < LOOKS) {
      this.open.push(piece);
    } else if (may.length) this.share(may, piece);
    else if (whole) {
      const text = asText(this.rest + piece.bytes);
      this.count(this.row(piece.bytes, { text }), piece);
    }
  }

  // What is too rare to be followed is shared among the words that it may become.
  share(words, piece) {
    const total = words.reduce((sum, word) => sum + word.share, 0);
    for (const { bytes, share } of words) {
      const row = this.rows.get(bytes), part = share / total;
      for (const name of SHARES) row[name] += part * piece[name];
    }
  }

  count(row, piece) {
    for (const name of SHARES) row[name] += piece[name];
    if (likeliest(piece) <= row.best) return;
    row.best = likeliest(piece);
    row.ids = piece.ids;
    const said = piece.end ? "" : asText(splitWhole(this.rest + piece.bytes)[0]);
    row.more = said.startsWith(row.text) ? said.slice(row.text.length) : "";
  }
}

const SHARES = ["model", "drawn", "truth"];
const likeliest = ({ model, drawn, truth }) => Math.max(model, drawn, truth);

// How much two distributions have in common, from 0 to 1.
export function overlap(rows) {
  return rows.reduce((sum, { model, truth }) => sum + Math.min(model, truth), 0);
}
