// What goes on inside (chapter 13): a session that keeps the stream of each token after each layer.
// The engine knows nothing of it: who does not ask for it pays nothing.
//
//   const inside = new Inside(model);
//   for (const id of ids) inside.feed(id);
//   inside.attention(2, 1)[9];          // how much head 1 of layer 2 takes from each at token 9
//   probabilities(inside.lens(3, 9));   // what would be said after token 9 after three layers
//   inside.patched(3, 9, other.streams[3][9]);   // the last scores, another's stream put in there
import { Session, linear, probabilities } from "./engine.js";

function fail(code, message) { return Object.assign(new Error(message), { code }); }

export class Inside extends Session {
  constructor(model) {
    super(model);                        // streams[0]: before the first layer; [l]: after l layers
    this.streams = Array.from({ length: this.config.n_layer + 1 }, () => []);   // T of (D,) each
  }

  block(part, l, x) {
    if (l === 0) this.streams[0].push(x.slice());
    super.block(part, l, x);
    this.streams[l + 1].push(x.slice());
  }

  back(n) {
    super.back(n);
    for (const stream of this.streams) stream.length = this.length;
  }

  place(l, t) {                          // (D,) the stream of token t after l layers
    const { n_layer } = this.config;
    if (!this.streams[l]) throw fail("layer", `layer ${l}: there are 0 to ${n_layer}, 0 is before`);
    if (this.streams[l][t]) return this.streams[l][t];
    throw fail("token", `token ${t}: ${this.length} tokens were read, the first is number 0`);
  }

  scores(x) { return linear(this.lm_head, this.norm(this.model.norm, x)); }   // (D,) -> (V,)

  // The logit lens (nostalgebraist 2020): the scores if the layers ended after l of them.
  lens(l, t) { return this.scores(this.place(l, t)); }

  // The last token's scores, had the stream of token t been x after l layers. What stands before it
  // is as it was, and so are these l layers of later tokens: only the rest is computed.
  patched(l, t, x) {
    const { cache, length, model, config: { n_layer, rope } } = this, mine = this.place(l, t);
    if (x?.length !== mine.length) {
      throw fail("stream", `x has ${x?.length} numbers: a stream has ${mine.length}`);
    }
    const before = (held) => Object.entries(held).map(([name, all]) => [name, all.slice(0, t)]);
    this.cache = cache.map((held, k) => k < l ? held : Object.fromEntries(before(held)));
    let y;
    for (let s = t; s < length; s++) {
      y = (s === t ? x : this.streams[l][s]).slice();
      if (rope) this.turn(s, rope);
      const whole = s < length - 1 ? n_layer - 1 : n_layer;    // of the last layer, the last token
      for (let k = l; k < whole; k++) super.block(model.layers[k], k, y);
      if (l < n_layer && whole < n_layer) this.remember(whole, y);
    }
    this.cache = cache;
    return this.scores(y);
  }

  remember(l, x) {                       // what later tokens take from one, and no more
    const { input_layernorm, self_attn: part } = this.model.layers[l], held = this.cache[l];
    const h = this.norm(input_layernorm, x);
    held.query.push(null);
    held.key.push(this.heads(linear(part.k_proj, h), part.k_norm));
    held.value.push(linear(part.v_proj, h));
  }
}

// The likeliest tokens: [id, share], best first.
export function likeliest(scores, n = 1) {
  const shares = probabilities(scores), order = Array.from(shares.keys());
  if (n === 1) return [order.reduce((a, id) => shares[id] > shares[a] ? id : a, 0)]
    .map((id) => [id, shares[id]]);
  return order.sort((a, b) => shares[b] - shares[a] || a - b).slice(0, n)
    .map((id) => [id, shares[id]]);
}

// Two texts of equally many tokens whose guesses differ. `at`: the tokens that differ; `answers`:
// what each is expected to go on with.
export class Pair {
  constructor(model, idsA, idsB) {
    if (idsA.length !== idsB.length) {
      const lengths = [idsA.length, idsB.length];
      throw Object.assign(fail("lengths", `the texts have ${lengths.join(" and ")} tokens`),
        { lengths });
    }
    Object.assign(this, { idsA, idsB, a: new Inside(model), b: new Inside(model) });
    this.at = idsA.flatMap((id, t) => id === idsB[t] ? [] : [t]);
    if (!this.at.length) throw fail("same", "the two texts are the same");
  }

  // Read both, a token of each at a time.
  * read() {
    const { idsA, idsB, a, b } = this, last = {};
    for (const [t, id] of idsA.entries()) {
      last.a = a.feed(id), last.b = b.feed(idsB[t]);
      yield t;
    }
    this.answers = [last.a, last.b].map((scores) => likeliest(scores)[0][0]);
    if (this.answers[0] === this.answers[1]) throw fail("answer", "both go on alike");
    this.lead = { a: this.leadOf(last.a), b: this.leadOf(last.b) };
  }

  leadOf(scores) { return scores[this.answers[0]] - scores[this.answers[1]]; }

  // The run of B with the stream of A at one place: its scores, and how much of A's answer has come
  // back: 0 where the lead of A's answer over B's is that of B, 1 where it is that of A.
  put(l, t) {
    const scores = this.b.patched(l, t, this.a.streams[l][t]);
    return { scores, share: (this.leadOf(scores) - this.lead.b) / (this.lead.a - this.lead.b) };
  }
}
