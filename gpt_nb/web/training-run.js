// One run of the page: first the bigram, then the GPT, on the same stories; what is measured on the
// way, what the models write, and how one sees that it breaks. Nothing here knows of the page.

import { seeded } from "./engine.js";
import { AdamW, Bigram, GPT, lrScale, update } from "./train.js";
import { World } from "./world.js";

export const SETTINGS = {
  rate: 0.01, batch: 8, warmup: 20, decay: 0.7, stories: 10,
  size: { width: 48, heads: 4, hidden: 128 },
  updates: { bigram: 300, gpt: 2000 },
  // updates after which the model is measured and writes stories
  looks: { bigram: [0, 300], gpt: [0, 20, 50, 100, 200, 500, 1000, 2000] },
};
const KINDS = ["bigram", "gpt"], LONGEST = 64;

// The stories of a file of docs/stories.py: one byte a word, 0 begins and ends each.
export function openStories(data) {
  const cut = (text) => {
    const ids = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), stories = [];
    for (let start = 0, end; (end = ids.indexOf(0, start + 1)) > 0; start = end) {
      stories.push(ids.subarray(start, end + 1));
    }
    return stories;
  };
  const world = new World(data.world, 1);
  return { ...data, world, train: cut(data.train), val: cut(data.val) };
}

// The place in `p` where a dart falls: place i with probability p[i].
export function draw(p, random) {
  let left = random();
  for (let i = 0; i < p.length; i++) if ((left -= p[i]) < 0) return i;
  return p.indexOf(Math.max(...p));   // rounding: the shares added up to less than the dart
}

// A story, word by word, with a pause after each.
export function* write(model, random) {
  const ids = [0];
  while (ids.length <= LONGEST) {
    const id = draw(model.next(Uint8Array.from(ids)), random);
    if (id === 0) break;
    ids.push(id);
    yield;
  }
  return ids.slice(1);
}

// The mean loss of a word over these stories, with a pause after each.
export function* measure(model, stories) {
  let loss = 0, tokens = 0;
  for (const ids of stories) {
    loss += model.loss(ids);
    tokens += ids.length - 1;
    yield;
  }
  return loss / tokens;
}

// What training one model leaves behind.
class Record {
  constructor(kind) {
    Object.assign(this, { kind, update: 0, tokens: 0, losses: [], curve: [], looks: [] });
    Object.assign(this, { seconds: 0, best: Infinity, now: NaN, rising: false, beats: false });
  }

  add({ loss, tokens }) {
    this.update++;
    this.tokens += tokens;
    this.losses.push(loss);
    if (this.update % 5) return;
    const last = this.losses.slice(-10);   // a curve that trembles less
    this.now = last.reduce((a, b) => a + b) / last.length;
    this.best = Math.min(this.best, this.now);
    this.curve.push([this.update, this.now]);
  }
}

export class Run {
  // tell(what, record, look) hears of: "start" and "end" of a model, "look", "beats" (counting),
  // "rising", "recovered", "nan"
  constructor(stories, seed, tell = () => {}, settings = SETTINGS) {
    Object.assign(this, { stories, seed, tell, settings, rate: settings.rate });
    this.records = [];
    this.models = {};
    this.over = this.broken = false;
    this.work = this.all();
  }

  // Everything, from the first story to the last, in pieces of a few milliseconds.
  * all() {
    for (const kind of KINDS) if (!this.broken) yield* this.train(kind);
    this.over = true;
  }

  * train(kind) {
    const { settings: s, stories, seed } = this, vocab = stories.words.length;
    const random = seeded(seed), record = new Record(kind), steps = s.updates[kind];
    const model = kind === "gpt" ? new GPT({ vocab, ...s.size }, random) : new Bigram(vocab);
    const optimizer = new AdamW(model);
    this.records.push(record);
    this.models[kind] = model;
    this.tell("start", record);
    for (let step = 0; ; step++) {
      if (s.looks[kind].includes(step)) yield* this.look(model, record);
      if (step === steps) break;
      const batch = Array.from({ length: s.batch }, () =>
        stories.train[Math.floor(random() * stories.train.length)]);
      const rate = this.rate * lrScale(step, steps, s.warmup, s.decay);
      record.add(yield* update(model, optimizer, batch, rate));
      if (this.watch(record)) return;
    }
    this.tell("end", record);
  }

  // Measure the model on stories that it never trains on, let it write some and check those.
  * look(model, record) {
    const loss = yield* measure(model, this.stories.val), written = [];
    for (let i = 0; i < this.settings.stories; i++) {
      const ids = yield* write(model, seeded(this.seed + i));
      written.push(this.judged(ids));
    }
    const mean = (key) => written.reduce((sum, story) => sum + story[key], 0) / written.length;
    const shares = { sentences: mean("sentences"), facts: mean("facts"), story: mean("story") };
    record.looks.push({ update: record.update, loss, ...written[0], shares });
    this.tell("look", record, record.looks.at(-1));
  }

  // A story as text, with what the checker of chapter 00 says of it.
  judged(ids) {
    const text = this.text(ids), check = this.stories.world.check(text);
    const { sentences, facts, story, reasons } = check;
    return { text, sentences, facts, story, reasons };
  }

  text(ids) {
    const words = ids.map((id) => this.stories.words[id]);
    return this.stories.lang === "zh" ? words.join("") : words.join(" ").replace(/ (?=[.,])/g, "");
  }

  // Tell what is worth telling after an update; true where the loss is no number: the end.
  watch(record) {
    const { now, best, losses, kind } = record, rises = now > best + 0.5, back = now < best + 0.1;
    if (!Number.isFinite(losses.at(-1))) {
      this.broken = true;
      record.now = NaN;
      this.tell("nan", record);
      return true;
    }
    if (!record.rising && rises) this.tell("rising", record);
    if (record.rising && back) this.tell("recovered", record);
    if (rises || back) record.rising = rises;
    if (kind === "gpt" && !record.beats && now < this.stories.bigram) {
      record.beats = true;
      this.tell("beats", record);
    }
    return false;
  }
}
