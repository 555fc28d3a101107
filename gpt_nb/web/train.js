// A bigram and a GPT of one layer that learn inside the page: chapters 04 to 09 once more, with
// forward and backward pass written out by hand. Every tensor is a flat Float32Array; the comment
// beside it gives its shape. T: tokens of a story, D: width of the stream, H: heads, K = D / H:
// width of a head, F: hidden features, V: words of the vocabulary.
// The gradient of x is called dx: how fast the loss changes with each number of x.

const zeros = (n) => new Float32Array(n);

// A number of the normal distribution (Box and Muller 1958).
function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

// ---- matrix products --------------------------------------------------------------------------

// out (n, m) += a (n, k) times b (m, k) transposed: the sums of 4 rows and 4 columns at a time, so
// that a number which was read takes part in four products. All matrix products are this one.
export function multiply(out, a, b, n, m, k) {
  for (let i = 0; i < n - 3; i += 4) {
    for (let j = 0; j < m - 3; j += 4) block(out, a, b, i, j, m, k);
  }
  const rows = n - (n % 4), columns = m - (m % 4);   // what did not go into blocks
  for (let i = 0; i < n; i++) {
    for (let j = i < rows ? columns : 0; j < m; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += a[i * k + l] * b[j * k + l];
      out[i * m + j] += sum;
    }
  }
}

function block(out, a, b, i, j, m, k) {
  const a0 = i * k, a1 = a0 + k, a2 = a1 + k, a3 = a2 + k;
  const b0 = j * k, b1 = b0 + k, b2 = b1 + k, b3 = b2 + k;
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
  let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
  for (let l = 0; l < k; l++) {
    const x0 = a[a0 + l], x1 = a[a1 + l], x2 = a[a2 + l], x3 = a[a3 + l];
    const y0 = b[b0 + l], y1 = b[b1 + l], y2 = b[b2 + l], y3 = b[b3 + l];
    s00 += x0 * y0; s01 += x0 * y1; s02 += x0 * y2; s03 += x0 * y3;
    s10 += x1 * y0; s11 += x1 * y1; s12 += x1 * y2; s13 += x1 * y3;
    s20 += x2 * y0; s21 += x2 * y1; s22 += x2 * y2; s23 += x2 * y3;
    s30 += x3 * y0; s31 += x3 * y1; s32 += x3 * y2; s33 += x3 * y3;
  }
  const o0 = i * m + j, o1 = o0 + m, o2 = o1 + m, o3 = o2 + m;
  out[o0] += s00; out[o0 + 1] += s01; out[o0 + 2] += s02; out[o0 + 3] += s03;
  out[o1] += s10; out[o1 + 1] += s11; out[o1 + 2] += s12; out[o1 + 3] += s13;
  out[o2] += s20; out[o2 + 1] += s21; out[o2 + 2] += s22; out[o2 + 3] += s23;
  out[o3] += s30; out[o3 + 1] += s31; out[o3 + 2] += s32; out[o3 + 3] += s33;
}

function transpose(a, n, m) {   // (n, m) -> (m, n)
  const out = zeros(n * m);
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) out[j * n + i] = a[i * m + j];
  return out;
}

// ---- the parts of a layer, each with its way back ----------------------------------------------

function linear(x, w, T, from, to) {   // x (T, from), w (to, from) -> (T, to)
  const y = zeros(T * to);
  multiply(y, x, w, T, to, from);
  return y;
}

function linearBack(dy, x, w, dx, dw, T, from, to) {   // adds to dx and dw
  multiply(dx, dy, transpose(w, to, from), T, from, to);
  multiply(dw, transpose(dy, T, to), transpose(x, T, from), to, from, T);
}

const EPS = 1e-6;   // so that a zero vector stays zero

function scaleOf(x, start, width) {   // 1 / root mean square of a row
  let squares = 0;
  for (let i = start; i < start + width; i++) squares += x[i] * x[i];
  return 1 / Math.sqrt(squares / width + EPS);
}

function rmsNorm(x, weight) {   // x (rows, width), weight (width) -> (rows, width)
  const y = zeros(x.length), width = weight.length;
  for (let start = 0; start < x.length; start += width) {
    const scale = scaleOf(x, start, width);
    for (let i = 0; i < width; i++) y[start + i] = x[start + i] * scale * weight[i];
  }
  return y;
}

function rmsNormBack(dy, x, weight, dx, dw) {   // adds to dx and dw
  const width = weight.length;
  for (let start = 0; start < x.length; start += width) {
    const scale = scaleOf(x, start, width);
    let shared = 0;   // each number of the row changes the scale of all
    for (let i = 0; i < width; i++) shared += dy[start + i] * weight[i] * x[start + i];
    shared *= (scale * scale) / width;
    for (let i = 0; i < width; i++) {
      const at = start + i;
      dx[at] += scale * (dy[at] * weight[i] - x[at] * shared);
      dw[i] += dy[at] * x[at] * scale;
    }
  }
}

// Turn features i and i + K/2 of each head by the angle of the token's place, in x itself.
// The way back of a turn is the turn back: direction -1.
function rope(x, T, H, K, theta, direction = 1) {   // x (T, H, K)
  for (let i = 0; i < K / 2; i++) {
    const frequency = theta ** ((-2 * i) / K);
    for (let t = 0; t < T; t++) {
      const cos = Math.cos(t * frequency), sin = direction * Math.sin(t * frequency);
      for (let at = t * H * K + i; at < (t + 1) * H * K; at += K) {
        const a = x[at], b = x[at + K / 2];
        x[at] = a * cos - b * sin;
        x[at + K / 2] = b * cos + a * sin;
      }
    }
  }
}

function softmax(x, start, n) {   // of n numbers, in x itself; returns log of the sum of e^x
  let top = -Infinity, sum = 0;
  for (let i = start; i < start + n; i++) if (x[i] > top) top = x[i];
  for (let i = start; i < start + n; i++) sum += x[i] = Math.exp(x[i] - top);
  for (let i = start; i < start + n; i++) x[i] /= sum;
  return top + Math.log(sum);
}

function dot(a, i, b, j, n) {
  let sum = 0;
  for (let l = 0; l < n; l++) sum += a[i + l] * b[j + l];
  return sum;
}

function addTimes(out, o, factor, x, i, n) {   // out[o ..] += factor x[i ..]
  for (let l = 0; l < n; l++) out[o + l] += factor * x[i + l];
}

// Each token takes from itself and the tokens before it; query, key, value, mixed: (T, H, K).
function attention(query, key, value, T, H, K) {
  const mixed = zeros(T * H * K), weights = zeros(H * T * T);   // (H, T, T): t takes from s
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < T; t++) {
      const row = (h * T + t) * T, here = (t * H + h) * K;
      for (let s = 0; s <= t; s++) {
        weights[row + s] = dot(query, here, key, (s * H + h) * K, K) / Math.sqrt(K);
      }
      softmax(weights, row, t + 1);
      for (let s = 0; s <= t; s++) {
        addTimes(mixed, here, weights[row + s], value, (s * H + h) * K, K);
      }
    }
  }
  return { mixed, weights };
}

function attentionBack(dmixed, { query, key, value, weights }, T, H, K) {
  const dquery = zeros(T * H * K), dkey = zeros(T * H * K), dvalue = zeros(T * H * K);
  const dweight = zeros(T);
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < T; t++) {
      const row = (h * T + t) * T, here = (t * H + h) * K;
      let shared = 0;   // a larger score takes weight from all others
      for (let s = 0; s <= t; s++) {
        const there = (s * H + h) * K;
        dweight[s] = dot(dmixed, here, value, there, K);
        shared += dweight[s] * weights[row + s];
        addTimes(dvalue, there, weights[row + s], dmixed, here, K);
      }
      for (let s = 0; s <= t; s++) {
        const there = (s * H + h) * K;
        const dscore = (weights[row + s] * (dweight[s] - shared)) / Math.sqrt(K);
        addTimes(dquery, here, dscore, key, there, K);
        addTimes(dkey, there, dscore, query, here, K);
      }
    }
  }
  return { dquery, dkey, dvalue };
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function swiglu(gate, up) {   // (T, F), (T, F) -> (T, F): silu(gate) * up
  const hidden = zeros(gate.length);
  for (let i = 0; i < gate.length; i++) hidden[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return hidden;
}

function swigluBack(dhidden, gate, up) {
  const dgate = zeros(gate.length), dup = zeros(gate.length);
  for (let i = 0; i < gate.length; i++) {
    const open = sigmoid(gate[i]);
    dgate[i] = dhidden[i] * up[i] * open * (1 + gate[i] * (1 - open));
    dup[i] = dhidden[i] * gate[i] * open;
  }
  return { dgate, dup };
}

// Cross-entropy: how surprised the guesses are by what comes, in nats, summed over the story.
// logits (T, V) become their gradient, times `share`: each guess less what came.
function surprise(logits, targets, V, share) {
  let loss = 0;
  for (let t = 0; t < targets.length; t++) {
    const right = t * V + targets[t], score = logits[right];
    loss += softmax(logits, t * V, V) - score;
    for (let i = t * V; i < (t + 1) * V; i++) logits[i] *= share;
    logits[right] -= share;
  }
  return loss;
}

// ---- models -----------------------------------------------------------------------------------

// Parameters of these shapes one after another in `data`, their gradients in `grad`; `w` and `dw`
// look at the same numbers by name.
class Model {
  constructor(shapes) {
    const sizes = Object.values(shapes).map((shape) => shape.reduce((a, b) => a * b));
    this.shapes = shapes;
    this.data = zeros(sizes.reduce((a, b) => a + b));
    this.grad = zeros(this.data.length);
    this.w = {}, this.dw = {};
    let at = 0;
    Object.keys(shapes).forEach((name, i) => {
      this.w[name] = this.data.subarray(at, at + sizes[i]);
      this.dw[name] = this.grad.subarray(at, (at += sizes[i]));
    });
  }

  // The loss of a story, summed over its tokens; `share` of its gradient is added to `grad`.
  // `past`: what `forward` left.
  gradient(ids, share, past = this.forward(ids.subarray(0, -1))) {
    const loss = surprise(past.logits, ids.subarray(1), this.vocab, share);
    this.backward(past.logits, past);
    return loss;
  }

  loss(ids) {
    const { logits } = this.forward(ids.subarray(0, -1));
    return surprise(logits, ids.subarray(1), this.vocab, 1);
  }

  // Probabilities (V) of the word after these.
  next(ids) {
    const logits = this.forward(ids).logits.slice(-this.vocab);
    softmax(logits, 0, this.vocab);
    return logits;
  }
}

// One row of logits for each word, as in chapter 04: what comes after it.
export class Bigram extends Model {
  constructor(vocab) {
    super({ table: [vocab, vocab] });   // zeros: at first all words are equally likely
    this.vocab = vocab;
    this.scale = 10;   // AdamW moves a number by about the rate in an update, a logit by 10 times
    this.decayed = [];
  }

  forward(ids) {   // (T) -> logits (T, V)
    const V = this.vocab, logits = zeros(ids.length * V);
    ids.forEach((id, t) => addTimes(logits, t * V, this.scale, this.w.table, id * V, V));
    return { ids, logits };
  }

  backward(dlogits, { ids }) {
    const V = this.vocab;
    ids.forEach((id, t) => addTimes(this.dw.table, id * V, this.scale, dlogits, t * V, V));
  }
}

// The GPT of chapter 08 with one layer; its names are those of the checkpoint, in camelCase.
export class GPT extends Model {
  constructor({ vocab: V, width: D, heads: H, hidden: F, theta = 10000 }, random) {
    super({
      embedTokens: [V, D], inputLayernorm: [D], qProj: [D, D], kProj: [D, D], vProj: [D, D],
      oProj: [D, D], qNorm: [D / H], kNorm: [D / H], postAttentionLayernorm: [D],
      gateProj: [F, D], upProj: [F, D], downProj: [D, F], norm: [D], lmHead: [V, D],
    });
    Object.assign(this, { vocab: V, width: D, heads: H, hidden: F, theta });
    this.decayed = ["qProj", "kProj", "vProj", "oProj", "gateProj", "upProj", "downProj"];
    for (const [name, shape] of Object.entries(this.shapes)) {
      const matrix = shape.length === 2, std = 1 / Math.sqrt(shape.at(-1));
      this.w[name].forEach((_, i, w) => (w[i] = matrix ? std * normal(random) : 1));
    }
  }

  forward(ids) {   // (T) -> logits (T, V), and all that the way back needs
    const { w, width: D, heads: H, hidden: F, vocab: V, theta } = this;
    const T = ids.length, K = D / H, stream = zeros(T * D);
    ids.forEach((id, t) => stream.set(w.embedTokens.subarray(id * D, (id + 1) * D), t * D));
    const read = rmsNorm(stream, w.inputLayernorm);                      // (T, D)
    const q = linear(read, w.qProj, T, D, D), k = linear(read, w.kProj, T, D, D);
    const value = linear(read, w.vProj, T, D, D);                        // (T, H, K)
    const query = rmsNorm(q, w.qNorm), key = rmsNorm(k, w.kNorm);        // (T, H, K)
    rope(query, T, H, K, theta);
    rope(key, T, H, K, theta);
    const { mixed, weights } = attention(query, key, value, T, H, K);
    const middle = stream.slice();                                       // (T, D)
    multiply(middle, mixed, w.oProj, T, D, D);   // += : attention adds to the stream
    const reread = rmsNorm(middle, w.postAttentionLayernorm);            // (T, D)
    const gate = linear(reread, w.gateProj, T, D, F), up = linear(reread, w.upProj, T, D, F);
    const hidden = swiglu(gate, up), end = middle.slice();               // (T, F), (T, D)
    multiply(end, hidden, w.downProj, T, D, F);
    const last = rmsNorm(end, w.norm), logits = linear(last, w.lmHead, T, D, V);
    return { ids, stream, read, q, k, query, key, value, mixed, weights, middle, reread, gate, up,
             hidden, end, last, logits };
  }

  backward(dlogits, past) {   // the lines of `forward` from the last to the first
    const { w, dw, width: D, heads: H, hidden: F, vocab: V, theta } = this;
    const T = past.ids.length, K = D / H, add = () => zeros(T * D);
    const dlast = add(), dstream = add(), dhidden = zeros(T * F), dreread = add(), dmixed = add();
    linearBack(dlogits, past.last, w.lmHead, dlast, dw.lmHead, T, D, V);
    rmsNormBack(dlast, past.end, w.norm, dstream, dw.norm);
    linearBack(dstream, past.hidden, w.downProj, dhidden, dw.downProj, T, F, D);
    const { dgate, dup } = swigluBack(dhidden, past.gate, past.up);
    linearBack(dgate, past.reread, w.gateProj, dreread, dw.gateProj, T, D, F);
    linearBack(dup, past.reread, w.upProj, dreread, dw.upProj, T, D, F);
    rmsNormBack(dreread, past.middle, w.postAttentionLayernorm, dstream, dw.postAttentionLayernorm);
    linearBack(dstream, past.mixed, w.oProj, dmixed, dw.oProj, T, D, D);
    const { dquery, dkey, dvalue } = attentionBack(dmixed, past, T, H, K);
    rope(dquery, T, H, K, theta, -1);
    rope(dkey, T, H, K, theta, -1);
    const dq = add(), dk = add(), dread = add();
    rmsNormBack(dquery, past.q, w.qNorm, dq, dw.qNorm);
    rmsNormBack(dkey, past.k, w.kNorm, dk, dw.kNorm);
    linearBack(dq, past.read, w.qProj, dread, dw.qProj, T, D, D);
    linearBack(dk, past.read, w.kProj, dread, dw.kProj, T, D, D);
    linearBack(dvalue, past.read, w.vProj, dread, dw.vProj, T, D, D);
    rmsNormBack(dread, past.stream, w.inputLayernorm, dstream, dw.inputLayernorm);
    past.ids.forEach((id, t) => addTimes(dw.embedTokens, id * D, 1, dstream, t * D, D));
  }
}

// ---- training ---------------------------------------------------------------------------------

// Shrink a gradient that is longer than `most` to that length; returns how long it was.
export function clip(grad, most) {
  const norm = Math.sqrt(dot(grad, 0, grad, 0, grad.length));
  if (norm > most) for (let i = 0; i < grad.length; i++) grad[i] *= most / (norm + 1e-6);
  return norm;
}

// AdamW (Loshchilov and Hutter 2019): against the mean gradient, measured by its usual size.
export class AdamW {
  constructor(model, { betas = [0.9, 0.95], weightDecay = 0, eps = 1e-8 } = {}) {
    Object.assign(this, { model, betas, weightDecay, eps, updates: 0 });
    this.mean = zeros(model.data.length);
    this.square = zeros(model.data.length);
  }

  step(rate) {
    const { mean, square, eps, betas: [b1, b2], model: { data, grad, w, decayed } } = this;
    const right1 = 1 - b1 ** ++this.updates, right2 = 1 - b2 ** this.updates;   // both begin at 0
    for (const name of decayed) {
      w[name].forEach((_, i, x) => (x[i] *= 1 - rate * this.weightDecay));
    }
    for (let i = 0; i < data.length; i++) {
      mean[i] += (1 - b1) * (grad[i] - mean[i]);
      square[i] += (1 - b2) * (grad[i] * grad[i] - square[i]);
      data[i] -= (rate * mean[i]) / right1 / (Math.sqrt(square[i] / right2) + eps);
    }
  }
}

// Up in a straight line, level, then down in a straight line: `lr_scale` of chapter 09.
export function lrScale(step, steps, warmup, decay) {
  return Math.min(1, (step + 1) / warmup) * Math.min(1, (1 - step / steps) / decay);
}

// One update, story by story, with pauses in which the page may do other things.
export function* update(model, optimizer, stories, rate) {
  const tokens = stories.reduce((sum, ids) => sum + ids.length - 1, 0);
  let loss = 0;
  model.grad.fill(0);
  for (const ids of stories) {
    const past = model.forward(ids.subarray(0, -1));
    yield;
    loss += model.gradient(ids, 1 / tokens, past) / tokens;
    yield;
  }
  const norm = clip(model.grad, 1);
  optimizer.step(rate);
  return { loss, norm, tokens };
}
