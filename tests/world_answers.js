// Answers what test_page_world.py asks, in node and in a browser alike.

import {Tokenizer} from "./web/engine.js";
import {World} from "./web/world.js";

const replies = {
  next: (world, prefix) => [...world.next(prefix)],
  begun: (world, prefix) => [...world.begun(prefix)],
  check: (world, text) => world.check(text),
  log2prob: (world, text, complete) => finite(world.log2prob(text, complete)),
  sample: (world, numbers) => world.sample(() => numbers.shift()),
  firstWords: (world, n, words) => counted(world, n, words),
  seconds: (world, prefix) => cpuSeconds(() => world.next(prefix)),
};

const finite = (x) => Number.isFinite(x) ? x : null;

// How often each beginning of so many words is drawn.
function counted(world, n, words) {
  const counts = new Map();
  let state = 1;
  const random = () => (state = state * 48271 % 2147483647) / 2147483647;   // Park and Miller 1988
  for (let i = 0; i < n; i++) {
    const beginning = world.sample(random).match(world.unit).slice(0, words).join(" ");
    counts.set(beginning, (counts.get(beginning) ?? 0) + 1);
  }
  return [...counts];
}

function cpuSeconds(run) {
  const start = process.cpuUsage().user;
  run();
  return (process.cpuUsage().user - start) / 1e6;
}

// `asked`: [[language, level, question, ...arguments], ...]
export function answer({data, toks, asked}) {
  const worlds = new Map(), tokenizers = new Map();
  const kept = (map, key, make) => map.get(key) ?? map.set(key, make()).get(key);
  return asked.map(([lang, level, what, ...rest]) => {
    const world = kept(worlds, lang + level, () => new World(data[lang], level));
    if (what !== "nextTokens") return replies[what](world, ...rest);
    const [name, ids] = rest, tok = kept(tokenizers, name, () => new Tokenizer(toks[name]));
    return [...world.nextTokens(tok, ids)];
  });
}
