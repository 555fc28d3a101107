// The truth, computed in the page: the rules of the world of chapter 00 (tales.js, check.js) behind
// one class, and what they say of the next token of a tokenizer.
//
//   const data = await (await fetch("world-en.json")).json();   // of `world_data` in Python
//   const world = new World(data, 2);
//   world.next("Once there was a");      // Map: word -> probability
//   world.check("Mia had a red kite.");  // what is right and wrong about any text
//   world.sample(Math.random);           // a story
//   world.nextTokens(tok, ids);          // Map: token -> probability

import {check} from "./check.js";
import {TRAILING, log2prob, nextWord, tables, tell} from "./tales.js";
import {nextTokens} from "./truth.js";

export class World {
  constructor(data, level = 2) { Object.assign(this, tables(data, level)); }

  // The true distribution of the next word, likeliest first; "<|end|>" after a whole story;
  // empty where no story goes on with a whole word.
  next(prefix) {
    return nextWord(this, prefix.replace(TRAILING, ""), (word, missing) =>
      word === missing ? word.replace(" ", "") : null);
  }

  // The same for a text that may stop inside a word: what is to be appended to end it, or the next
  // word with what joins it: "a ki" -> "te"; "a kite" -> " ."
  begun(prefix) {
    return nextWord(this, prefix, (word, missing) => prefix ? missing : missing.trimStart());
  }

  // The true distribution of the next token after the ids of a beginning (see truth.js).
  nextTokens(tok, ids) { return nextTokens(this, tok, ids); }

  // What is right and wrong about any text, whole or cut off; the same for every level.
  check(text) { return check(this, text); }

  // A story; `random()` gives numbers from 0 to 1.
  sample(random) { return tell(this, random); }

  // log2 of the exact probability of a story; complete = false: of all stories that begin so.
  log2prob(text, complete = true) { return log2prob(this, text, complete); }
}
