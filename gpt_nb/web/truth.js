// The true distribution of the next token: of all stories whose tokens begin with those that are
// given, how large a share goes on with each token.
//
// In English a word ends where a token ends, as in chapter 11. In Chinese a token of byte pairs may
// hold several words or a part of a character, and how a text is cut into tokens may hang on what
// follows. So every way to go on is followed, word by word, until its next token is certain.
//
// Why it is certain: byte-pair encoding cuts each beginning of a piece of text in one way, and the
// tokens of a whole piece are such that two neighbours, taken alone, are cut just so. As a piece
// grows, those cuts are open in which the last token, or a longer one that has begun, fits its left
// neighbour. If all of them agree on the next token, nothing that follows can change it.
//
// A `piece` is bytes as a string, one character a byte, as in engine.js.

import {add, begun, happen, newcomer, normalised, read, readings} from "./tales.js";

const OTHER = -1;   // in place of a token: the text is cut otherwise than the ids say
const toUTF8 = new TextEncoder();
const toPiece = (text) => Array.from(toUTF8.encode(text), (b) => String.fromCharCode(b)).join("");

// Map: token -> probability, after these ids (without an end token); empty where no story of the
// world has tokens that begin so.
export function nextTokens(world, tok, ids) {
  const shares = new Map(), given = new Given(tok, ids), found = read(world, given.text);
  if (!found || !given.isText) return shares;
  const {scene, known, rest} = found;
  if (scene.over) return rest || !given.isWhole ? shares : shares.set(tok.endId, 1);
  for (const way of begun(world, rest, scene, known)) {
    const missing = given.text ? way.missing : way.missing.trimStart();
    if (toPiece(missing).startsWith(given.half)) follow(world, way, given.start(missing), shares);
  }
  shares.delete(OTHER);
  return shares.size ? normalised(shares) : shares;
}

// Follow one way to go on until its next token is certain, and add its share to that token's.
function follow(world, way, cut, shares) {
  const over = !way.atoms.length && way.event.kind === "smile";
  const token = cut.token(world.lang === "en" || over);
  if (token !== undefined) return add(shares, token, way.p);
  for (const next of wordsAfter(world, way)) {
    follow(world, next, cut.grow(next.missing), shares);
  }
}

// The next word of a way, or of the sentences after it.
function wordsAfter(world, {p, known, atoms, scene, event}) {
  if (atoms.length) {
    return [...readings(world, atoms, "", known, p)].map((next) => ({...next, scene, event}));
  }
  scene = happen(world, scene, event, newcomer(world, event, known));
  return [...begun(world, "", scene, known, p)];
}

// The ids that are given, and what they say.
class Given {
  constructor(tok, ids) {
    Object.assign(this, {tok, ids, pairs: pairsOf(tok), length: 0, bases: new Map()});
    this.at = new Map();        // byte where a token begins -> the token
    for (const id of ids) {
      this.at.set(this.length, id);
      this.length += tok.pieces[id].length;
    }
    const piece = ids.map((id) => tok.pieces[id]).join("");
    const bytes = Uint8Array.from(piece, (byte) => byte.charCodeAt(0));
    const whole = wholeCharacters(bytes);
    try { this.text = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(whole); }
    catch { this.text = null; }
    this.half = String.fromCharCode(...bytes.slice(whole.length));   // of a character begun
    this.isText = this.text !== null && !ids.includes(tok.endId);
    this.text ??= "";
    this.last = this.text.match(tok.pattern)?.at(-1) ?? "";          // perhaps not yet at its end
  }

  // Whether the ids are those of the whole text.
  get isWhole() { return !this.half && this.beginWith(this.text); }

  // Whether the ids begin with those of a text.
  beginWith(text) { return this.tok.encode(text).every((id, i) => id === this.ids[i]); }

  // The cut of the text and what follows it, from the beginning of the piece that both are in.
  start(missing) {
    const goesOn = (this.last + missing).match(this.tok.pattern)[0].length > this.last.length;
    const text = goesOn ? this.last : "";
    if (!this.bases.has(text)) this.bases.set(text, this.base(text));
    return this.bases.get(text).grow(missing);
  }

  base(last) {
    const before = this.text.slice(0, this.text.length - last.length);
    const next = this.beginWith(before) ? undefined : OTHER;
    return new Cut(this, toPiece(before).length, [{token: null, next}]).grow(last);
  }
}

// Bytes without the character that breaks off at their end.
function wholeCharacters(bytes) {
  let start = bytes.length;
  while (start > 0 && bytes.length - start < 3 && (bytes[start - 1] & 0xc0) === 0x80) start--;
  const lead = bytes[start - 1], size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  return start > 0 && bytes.length - start + 1 < size ? bytes.slice(0, start - 1) : bytes;
}

// How a piece that grows is cut. Of each of its beginnings: the last token, and the token that
// comes next after the given ones, undefined as long as there is none.
class Cut {
  constructor(given, from, ends, text = "") {
    Object.assign(this, {given, from, ends, text, piece: toPiece(text), longer: new Map()});
    for (let end = ends.length; end <= this.piece.length; end++) this.reach(end);
  }

  // The cut of the piece when this text has come.
  grow(text) {
    const {given, from, longer} = this, ends = [...this.ends];
    if (!longer.has(text)) longer.set(text, new Cut(given, from, ends, this.text + text));
    return longer.get(text);
  }

  // Cut the beginning that ends here.
  reach(end) {
    const {tok, pairs} = this.given;
    for (let begin = Math.max(0, end - pairs.longest); begin < end; begin++) {
      const id = tok.ids.get(this.piece.slice(begin, end)), before = this.ends[begin];
      if (id === undefined || !before || !pairs.fit(before.token, id)) continue;
      this.ends[end] = {token: id, next: this.nextAfter(before, begin, id)};
      return;
    }
  }

  // What comes next after the given ids where token `id` begins at `begin`.
  nextAfter(before, begin, id) {
    const place = this.from + begin;
    if (before.next !== undefined) return before.next;
    if (place === this.given.length) return id;
    return this.given.at.get(place) === id ? undefined : OTHER;
  }

  // The next token; undefined if that is not yet certain. `ended`: the piece ends here.
  token(ended) {
    const {tok, pairs} = this.given, [whole] = this.text.match(tok.pattern);
    if (ended || whole.length < this.text.length) {
      return (this.ends[toPiece(whole).length] ?? {next: tok.unknown}).next;
    }
    const open = new Set([this.ends[this.piece.length]?.next]);
    const from = Math.max(0, this.piece.length - pairs.longest);
    for (let begin = from; begin < this.piece.length; begin++) {
      const before = this.ends[begin];
      for (const id of before ? pairs.longer(this.piece.slice(begin)) : []) {
        if (pairs.fit(before.token, id)) open.add(this.nextAfter(before, begin, id));
        if (open.size > 1) return undefined;
      }
    }
    return open.values().next().value;
  }
}

// Which tokens of a tokenizer may be neighbours, and which begin with some bytes.
class Pairs {
  constructor(tok) {
    Object.assign(this, {tok, longest: 0, begun: new Map(), known: new Map()});
    for (const [piece, id] of tok.ids) {
      this.longest = Math.max(this.longest, piece?.length ?? 0);
      for (let n = 1; n < (piece?.length ?? 0); n++) {
        const start = piece.slice(0, n);
        if (!this.begun.has(start)) this.begun.set(start, []);
        this.begun.get(start).push(id);
      }
    }
  }

  // The tokens that begin with these bytes and are longer.
  longer(piece) { return this.begun.get(piece) ?? []; }

  // Whether the text of both, taken alone, is cut into these two; `a` is null at the start.
  fit(a, b) {
    if (a === null) return true;
    if (this.tok.kind !== "bytes") return false;
    const key = this.tok.pair(a, b);
    if (!this.known.has(key)) {
      const ids = this.tok.mergePairs(this.tok.pieces[a] + this.tok.pieces[b]);
      this.known.set(key, ids?.length === 2 && ids[0] === a && ids[1] === b);
    }
    return this.known.get(key);
  }
}

const tables = new WeakMap();

function pairsOf(tok) {
  if (!tables.has(tok)) tables.set(tok, new Pairs(tok));
  return tables.get(tok);
}
