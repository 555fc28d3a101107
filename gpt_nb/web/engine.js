// A GPT in one file: weights, tokenizer, forward pass with its cache, sampler. It mirrors chapters
// 01 to 10 of gpt_nb; chapter 14b shows it beside the Python and proves the two equal.
// Shapes: T tokens read so far, V vocabulary, D model width, H heads, K head width, F features.

export const FORMAT = "gpt_nb page model", VERSION = 1;

// Errors of one clear line; `code` names the kind, for a page that speaks another language.
function fail(code, message) { return Object.assign(new Error(message), { code }); }
function outside(id, last) { return fail("id", `id ${id} is no token: ids go from 0 to ${last}`); }

// ------------------------------------------------------------------------------ opening a model

// Fetch what `write_page_model` has written into the folder `url`. `onProgress(bytes, of)`.
export async function openModel(url, { onProgress = () => {}, signal = null } = {}) {
  const folder = String(url).replace(/\/*$/, "/");
  const about = parse(await request(folder + "model.json", signal, (answer) => answer.text()));
  const show = (n) => onProgress(n, about.bytes), read = (answer) => readParts(answer, show);
  return makeModel(about, await request(folder + "weights.bin", signal, read));
}

async function request(url, signal, read) {
  try {
    const answer = await fetch(url, { signal });
    if (answer.ok) return await read(answer);
    throw fail("missing", `cannot fetch ${url}: the server answers ${answer.status}`);
  } catch (error) {
    if (error.name === "AbortError" || error.code) throw error;   // stopped, or said already
    throw fail("missing", `cannot fetch ${url}: it is not there, or the connection broke`);
  }
}

async function readParts(answer, show) {             // all bytes, which come in parts
  const reader = answer.body.getReader(), parts = [];
  for (let n = 0, part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    show(n += part.value.length);
  }
  return new Blob(parts).arrayBuffer();
}

function parse(text) {                               // model.json, of a version that we read
  let about = {};
  try { about = JSON.parse(text); } catch { throw fail("damaged", "model.json is damaged"); }
  if (about?.format === FORMAT && about.version === VERSION) return about;
  throw fail("version", `model.json is ${about?.format} ${about?.version}, and this page reads ` +
             `${FORMAT} ${VERSION}: load the page anew, or write the model again`);
}

// A model from the object in model.json and the ArrayBuffer of weights.bin.
// A tensor lies where its name says: weights.model.layers[0].mlp.up_proj.weight.
export function makeModel(about, buffer) {
  const n = buffer.byteLength;
  if (n !== about.bytes) throw fail("damaged", `weights.bin has ${n} of its ${about.bytes} bytes`);
  try {
    const config = about.config, weights = readTensors(about.tensors, buffer);
    checkSizes(config, weights);
    return { config, weights, tok: new Tokenizer(about.tokenizer) };
  } catch ({ message }) {
    throw fail("format", `model.json is damaged: ${message.slice(0, 200)}`);
  }
}

function readTensors(entries, buffer) {              // one behind the other, each in its place
  const empty = () => Object.create(null), weights = empty();
  let place = 0;
  for (const entry of entries) {
    const names = String(entry.name).split("."), last = names.pop(), size = bytesOf(entry);
    if (entry.offset !== place || !(place + size <= buffer.byteLength)) {
      throw Error(`${entry.name} does not lie in weights.bin`);
    }
    place += size;
    const inside = names.reduce((holder, name) => holder[name] ??= empty(), weights);
    inside[last] = readTensor(entry, buffer);
  }
  return weights;
}

function bytesOf({ shape, dtype }) {                 // filled up to a multiple of 4; NaN: none
  const each = { float32: 4, bfloat16: 2, int8: 1 }[dtype], up = (n) => Math.ceil(n / 4) * 4;
  if (!shape.every((size) => Number.isInteger(size) && size > 0)) return NaN;
  const n = shape.reduce((product, size) => product * size, 1);
  return up(n * each) + (dtype === "int8" ? 4 * shape[0] : 0);
}

// Sizes that agree with the weights, and one token read: what is damaged shows here, not later.
function checkSizes(config, weights) {
  const { vocab_size: V, d_model: D, d_head: K, n_head, n_kv_head, n_layer } = config;
  const { layers, embed_tokens } = weights.model, found = Object.values(layers);
  if (!(config.norm_eps > 0)) throw Error("norm_eps is wrong");
  if (embed_tokens.weight.length !== V * D) throw Error("vocab_size or d_model is wrong");
  if (found.length !== n_layer) throw Error("n_layer is wrong");
  for (const { self_attn: { q_proj, k_proj, v_proj } } of found) {
    const rows = [q_proj, k_proj, v_proj].map(({ weight }) => weight.length / D / K);
    if (String(rows) !== String([n_head, n_kv_head, n_kv_head])) throw Error("heads are wrong");
  }
  const logits = new Session({ config, weights }).feed(0);
  if (logits.length === V && logits.every(Number.isFinite)) return;
  throw Error("its weights do not make one finite number for each token");
}

function readTensor({ shape, dtype, offset }, buffer) {   // as float32, row after row
  const n = shape.reduce((product, size) => product * size, 1), data = new Float32Array(n);
  if (dtype === "float32") data.set(new Float32Array(buffer, offset, n));
  if (dtype === "bfloat16") {                        // the upper half of a float32
    const bits = new Uint32Array(data.buffer), halves = new Uint16Array(buffer, offset, n);
    for (let i = 0; i < n; i++) bits[i] = halves[i] << 16;
  }
  if (dtype === "int8") {                            // whole numbers, and then a scale a row
    const whole = new Int8Array(buffer, offset, n), columns = n / shape[0];
    const scales = new Float32Array(buffer, offset + Math.ceil(n / 4) * 4, shape[0]);
    for (let i = 0; i < n; i++) data[i] = whole[i] * scales[Math.floor(i / columns)];
  }
  return data;
}

// ------------------------------------------------------------------------------------ tokenizer

const toUTF8 = new TextEncoder(), fromUTF8 = new TextDecoder("utf-8", { ignoreBOM: true });
const toPiece = (text) => Array.from(toUTF8.encode(text), (b) => String.fromCharCode(b)).join("");

// Text to ids and back (chapter 01). A piece: the bytes of a token as a string, a character each.
export class Tokenizer {
  constructor({ kind, pieces, special, split, classes, merges, unknown, end, wholeFirst }) {
    Object.assign(this, { kind, merges, unknown, endId: end, wholeFirst, cache: new Map() });
    this.ids = new Map(pieces.map((piece, id) => [piece, id]));
    this.pieces = [...pieces];                       // null where an id is no plain token
    this.special = new Map(special);                 // name -> id
    for (const [name, id] of special) this.pieces[id] = toPiece(name);
    const names = [...this.special.keys()].sort((a, b) => [...b].length - [...a].length);
    this.names = new RegExp(names.map((name) => name.replace(/\W/g, "\\$&")).join("|"), "g");
    this.pattern = new RegExp(spell(split, classes), "gu");
    this.ranks = new Map(merges.map(([a, b], rank) => [this.pair(a, b), rank]));
  }

  pair(a, b) { return a * this.pieces.length + b; }  // one number for two ids

  // A special token's name is plain text unless it is allowed: a list of names, or "all".
  encode(text, allowed = []) {
    if (/\p{Surrogate}/u.test(text)) throw fail("text", "half of a surrogate pair is no text");
    const names = allowed === "all" ? [...this.special.keys()] : [...allowed], ids = [];
    const odd = names.find((name) => !this.special.has(name));
    if (odd !== undefined) throw fail("special", `${odd} is no special token of this model`);
    let start = 0;
    for (const { 0: name, index } of names.length ? text.matchAll(this.names) : []) {
      if (!names.includes(name)) continue;
      this.encodePlain(text.slice(start, index), ids);
      ids.push(this.special.get(name));
      start = index + name.length;
    }
    this.encodePlain(text.slice(start), ids);
    return ids;
  }

  encodePlain(text, ids) {
    for (const piece of text.match(this.pattern) ?? []) {
      const found = this.cache.get(piece) ?? this.encodePiece(toPiece(piece));
      if (!found) throw fail("unseen", `${JSON.stringify(piece)} was not in the training text`);
      if (this.cache.size < 20000) this.cache.set(piece, found);
      for (const id of found) ids.push(id);
    }
  }

  encodePiece(piece) {                               // null: a character or byte it has not
    if (this.kind === "bytes" && !this.wholeFirst) return this.mergePairs(piece);
    if (this.ids.has(piece)) return [this.ids.get(piece)];
    return { characters: null, words: [this.unknown] }[this.kind] ?? this.mergePairs(piece);
  }

  // Merge the pair of the lowest rank wherever it stands, until none is left.
  mergePairs(piece) {
    const ids = Array.from(piece, (byte) => this.ids.get(byte));
    while (!ids.includes(undefined)) {
      const ranks = ids.map((id, i) => this.ranks.get(this.pair(id, ids[i + 1])) ?? Infinity);
      const best = ranks.reduce((a, b) => Math.min(a, b), Infinity);
      if (best === Infinity) return ids;
      const [a, b] = this.merges[best], merged = this.ids.get(this.pieces[a] + this.pieces[b]);
      for (let i = 0, before = ids.splice(0); i < before.length; i++) {
        const here = before[i] === a && before[i + 1] === b;
        ids.push(here ? merged : before[i]);
        if (here) i++;
      }
    }
    return null;
  }

  bytes(id) {                                        // of one token; perhaps half a character
    const piece = this.pieces[id];
    if (typeof piece !== "string") throw outside(id, this.pieces.length - 1);
    return Uint8Array.from(piece, (byte) => byte.charCodeAt(0));
  }

  decode(ids) {                                      // what is no UTF-8 becomes U+FFFD
    return fromUTF8.decode(Uint8Array.from([...ids].flatMap((id) => [...this.bytes(id)])));
  }
}

// A pattern whose classes, such as \p{L}, are spelled out as the ranges of characters that Python
// means: browsers of different years do not agree on what a letter is.
function spell(split, classes) {
  for (const [name, ranges] of Object.entries(classes)) {
    const spelled = ranges.replace(/[0-9A-F]+/g, "\\u{$&}").replaceAll(" ", "");
    split = split.replaceAll(name, () => spelled);
  }
  return split;
}

// --------------------------------------------------------------------------------- forward pass

// W x + b: four rows of W at a time, the last four perhaps once more.
export function linear({ weight, bias }, x) {        // (rows, n), (n,) -> (rows,)
  const n = x.length, rows = weight.length / n, y = new Float32Array(rows);
  for (let end = 4; end < rows + 4; end += 4) {
    const row = Math.max(0, Math.min(end, rows) - 4);
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = 0, p = row * n, q = p + n, r = q + n, s = r + n; j < n; j++, p++, q++, r++, s++) {
      a += weight[p] * x[j];
      b += weight[q] * x[j];
      c += weight[r] * x[j];
      d += weight[s] * x[j];
    }
    y[row] = a, y[row + 1] = b, y[row + 2] = c, y[row + 3] = d;
  }
  if (bias) add(y, bias);
  return y;
}

// Divide by the root mean square, scale each feature (chapter 05), in place.
export function rmsNorm({ weight }, eps, x) {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += x[i] * x[i];
  const scale = 1 / Math.sqrt(squares / x.length + eps);
  for (let i = 0; i < x.length; i++) x[i] *= scale * weight[i];
}

export function layerNorm({ weight, bias }, eps, x) {   // GPT-2's: mean 0 and deviation 1
  let mean = 0, squares = 0;
  for (let i = 0; i < x.length; i++) mean += x[i] / x.length;
  for (let i = 0; i < x.length; i++) squares += (x[i] - mean) ** 2;
  const scale = 1 / Math.sqrt(squares / x.length + eps);
  for (let i = 0; i < x.length; i++) x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

// Turn each pair, features i and i + K/2, by its token's angle (chapter 05), in place.
export function rope(x, cos, sin) {
  const half = cos.length;
  for (let i = 0; i < half; i++) {
    const a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

export function softmax(x) {                         // in place
  let top = -Infinity, sum = 0;
  for (let i = 0; i < x.length; i++) top = Math.max(top, x[i]);
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - top);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
}

export function swiglu(gate, up) {                   // (F,), (F,) -> (F,) in `up` (chapter 06)
  for (let i = 0; i < up.length; i++) up[i] *= gate[i] / (1 + Math.exp(-gate[i]));
}

export function gelu(x) {                            // in its tanh form, in place (chapter 06)
  const bell = (u) => Math.tanh(Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3));
  for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + bell(x[i]));
}

function add(x, more) { for (let i = 0; i < x.length; i++) x[i] += more[i]; }

// A text that grows; the cache holds query, key and value of each token, layer by layer.
export class Session {
  constructor({ config, weights: { model, lm_head = model.embed_tokens } }) {    // tied: one matrix
    Object.assign(this, { config, model, lm_head, ids: [] });
    this.cache = Array.from({ length: config.n_layer }, () => ({ query: [], key: [], value: [] }));
  }

  get length() { return this.ids.length; }

  // Read one more token; (V,) logits: a score for each token that may follow.
  feed(id) {
    this.check(id);
    const { model, config: { d_model: D, n_layer, rope }, length: t } = this;
    const x = model.embed_tokens.weight.slice(id * D, (id + 1) * D);     // (D,) the stream
    if (rope) this.turn(t, rope);
    else add(x, model.embed_positions.weight.subarray(t * D));           // GPT-2's
    for (let l = 0; l < n_layer; l++) this.block(model.layers[l], l, x);
    this.ids.push(id);
    return linear(this.lm_head, this.norm(model.norm, x));
  }

  check(id) {
    const { vocab_size, context } = this.config, whole = Number.isInteger(id);
    if (!whole || id < 0 || id >= vocab_size) throw outside(id, vocab_size - 1);
    if (this.length < context) return;
    throw fail("context", `the text does not fit into the context of ${context} tokens`);
  }

  turn(t, { frequencies, magnitude }) {              // (K/2,) cosine and sine of a token's angles
    const angles = Float32Array.from(frequencies, (frequency) => t * frequency);
    this.cos = angles.map((angle) => magnitude * Math.cos(angle));
    this.sin = angles.map((angle) => magnitude * Math.sin(angle));
  }

  norm(part, x) {
    const y = x.slice();
    (this.config.norm === "rms" ? rmsNorm : layerNorm)(part, this.config.norm_eps, y);
    return y;
  }

  // One layer: attention, then feed-forward; each adds to the stream (chapter 06).
  block({ input_layernorm, self_attn, post_attention_layernorm, mlp }, l, x) {
    add(x, this.attend(self_attn, l, this.norm(input_layernorm, x)));
    const h = this.norm(post_attention_layernorm, x), up = linear(mlp.up_proj, h);       // (F,)
    if (mlp.gate_proj) swiglu(linear(mlp.gate_proj, h), up); else gelu(up);
    add(x, linear(mlp.down_proj, up));
  }

  // Each head takes from the values of the tokens it looks at (chapter 05).
  attend(part, l, h) {                               // (D,) -> (D,)
    const { query, key, value } = this.cache[l];
    const { n_head, n_kv_head, d_head: K } = this.config;
    query.push(this.heads(linear(part.q_proj, h), part.q_norm));         // (H K,)
    key.push(this.heads(linear(part.k_proj, h), part.k_norm));           // (H_kv K,)
    const t = value.push(linear(part.v_proj, h)) - 1, mixed = new Float32Array(n_head * K);
    for (let head = 0; head < n_head; head++) {
      const shares = this.look(l, head, t), to = K * head;
      const from = K * Math.floor(head * n_kv_head / n_head);            // shared by a group
      for (let s = 0; s <= t; s++) {
        const v = value[s], share = shares[s];
        for (let i = 0; i < K; i++) mixed[to + i] += share * v[from + i];
      }
    }
    return linear(part.o_proj, mixed);
  }

  heads(x, norm) {                                   // each head's part is normed and turned
    for (let start = 0, K = this.config.d_head; start < x.length; start += K) {
      const part = x.subarray(start, start + K);
      if (norm) rmsNorm(norm, this.config.norm_eps, part);               // Qwen3's
      if (this.config.rope) rope(part, this.cos, this.sin);
    }
    return x;
  }

  // How much token t takes from each token up to itself, by this head: (t + 1,), sums to 1.
  look(l, head, t) {
    const { n_head, n_kv_head, d_head: K } = this.config, shares = new Float32Array(t + 1);
    const { key, query: { [t]: q } } = this.cache[l], at = K * head;
    const from = K * Math.floor(head * n_kv_head / n_head);              // shared by a group
    for (let s = 0; s <= t; s++) {
      const k = key[s];
      let score = 0;
      for (let i = 0; i < K; i++) score += q[at + i] * k[from + i];
      shares[s] = score / Math.sqrt(K);
    }
    softmax(shares);
    return shares;
  }

  attention(layer, head) { return this.ids.map((_, t) => this.look(layer, head, t)); }
  back(n) {                                          // forget the last n tokens
    this.ids.length = Math.max(0, this.length - n);
    for (const held of this.cache) for (const all of Object.values(held)) all.length = this.length;
  }
}

// -------------------------------------------------------------------------------------- sampler

// The distribution that is drawn from (chapter 10). `used`: the ids of the text so far.
export function probabilities(logits, settings = {}) {                   // (V,) -> (V,)
  const { temperature, topK, topP, minP, penalty } = complete(settings);
  const x = Float32Array.from(logits);
  for (const id of new Set(settings.used)) x[id] *= x[id] < 0 ? penalty : 1 / penalty;
  const best = x.reduce((a, logit, id) => logit > x[a] ? id : a, 0), top = x[best];
  if (temperature === 0) return x.fill(0).fill(1, best, best + 1);
  for (let id = 0; id < x.length; id++) x[id] = (x[id] - top) / Math.max(temperature, 1e-30);
  if (topK < x.length) keepTopK(x, topK);
  if (topP < 1) keepTopP(x, topP);
  if (minP > 0) keepMinP(x, minP);
  softmax(x);
  return x;
}

const LIMITS = { temperature: [0, 1, 1e30], topK: [1, Infinity, Infinity], topP: [0, 1, 1],
  minP: [0, 0, 1], penalty: [1e-30, 1, 1e30] };      // least, usual, most

function complete(settings) {
  return Object.fromEntries(Object.entries(LIMITS).map(([name, [least, usual, most]]) => {
    const value = settings[name] ?? usual;
    if (value >= least && value <= most) return [name, value];
    throw fail("setting", `${name} is ${value}: it should be from ${least} to ${most}`);
  }));
}

function keepFrom(least, x) {
  for (let id = 0; id < x.length; id++) if (x[id] < least) x[id] = -Infinity;
}

function keepTopK(x, k) {                            // ties with the last one kept stay too
  keepFrom(x.slice().sort()[x.length - Math.floor(k)], x);
}

function keepTopP(x, p) {                            // the fewest likeliest that reach p together
  const order = Array.from(x.keys()).sort((a, b) => x[b] - x[a] || a - b), probs = x.slice();
  softmax(probs);
  let sum = 0;
  for (const id of order) {
    if (sum >= p && id !== order[0]) x[id] = -Infinity;
    sum += probs[id];
  }
}

function keepMinP(x, p) {                            // at least p times as likely as the likeliest
  keepFrom(Math.log(p), x);                          // where x is 0
}

// Lay the probabilities end to end and see where the dart falls: the id of the next token.
export function sample(logits, settings, random) {
  const probs = probabilities(logits, settings), dart = random() * probs.reduce((a, b) => a + b, 0);
  let sum = 0, last = 0;
  for (let id = 0; id < probs.length; id++) {
    sum += probs[id];
    if (probs[id] > 0) last = id;
    if (sum > dart) return id;
  }
  return last;
}

// Numbers in [0, 1) that depend on the seed alone: steps of one size, each stirred as at the end of
// MurmurHash3 (Appleby 2011).
export function seeded(seed) {
  let state = Math.imul(seed, 0x85ebca6b);
  return () => {
    state = state + 0x9e3779b9 | 0;
    let z = Math.imul(state ^ state >>> 16, 0x85ebca6b);
    z = Math.imul(z ^ z >>> 13, 0xc2b2ae35);
    return ((z ^ z >>> 16) >>> 0) / 2 ** 32;
  };
}
