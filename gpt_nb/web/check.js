// What is right and wrong about any text: the checker of chapter 00, function for function and name
// for name.

import {EMPTY, eventOf, granted, happen, join, judge, match, named, newcomer, number}
  from "./tales.js";

// Judge any text word by word, sentence by sentence, fact by fact: the shares of `Tales.check`, its
// reasons, and in `each` the sentences {start, end, wellFormed, facts, reasons} that end in a stop.
export function check(world, text) {
  const checker = new Checker(world), found = [...text.matchAll(world.unit)];
  let sentence = [], start = 0;
  for (const {0: word, index} of found) {
    if (!sentence.length) start = index;
    sentence.push(word);
    if (word !== world.stop) continue;
    checker.sentence(sentence, start, index + word.length);
    sentence = [];
  }
  const words = found.map(([word]) => word);
  if (!words.length) checker.fault("empty");
  checker.unknownWords(words);
  if (sentence.length) checker.fault("breaks", {text: begunWords(world, sentence)});
  else if (words.length && !checker.whole()) checker.fault("whole");
  const {each, reasons} = checker;
  return {words: shareOf(words.map((word) => world.known.has(word))),
          sentences: shareOf(each.map(({wellFormed}) => wellFormed)),
          facts: shareOf(each.flatMap(({facts}) => facts)),
          story: reasons.length ? 0 : 1, reasons, each};
}

function begunWords(world, sentence) {
  const words = sentence.slice(0, 12);
  return quoted(world, world.lang === "en" ? words.join(" ") : join(world, words));
}

// The share that is true; 0 of nothing.
const shareOf = (marks) => marks.length ? marks.filter(Boolean).length / marks.length : 0;

// Reads free text sentence by sentence, keeps the scene, and judges each fact against it.
class Checker {
  constructor(world) {
    Object.assign(this, {world, scene: EMPTY, known: new Map(), kinds: [], each: [], reasons: []});
  }

  // Take in one sentence.
  sentence(words, start, end) {
    const found = match(this.world, words), text = quoted(this.world, join(this.world, words));
    this.now = {start, end, words, wellFormed: found !== null, facts: [], reasons: []};
    this.each.push(this.now);
    if (found) this.takeIn(...found);
    else this.fault("sentence", {text});
    this.now = null;
  }

  // Turn the words into an event, judge it, let it happen.
  takeIn(kind, said) {
    const {world, known, scene} = this;
    this.kinds.push(kind);
    const event = eventOf(world, kind, said, known, scene);
    const unknown = unheard(world, said, event, scene, known);
    if (unknown) {
      this.now.facts.push(false);
      return this.fault(...unknown);
    }
    for (const [key, entry] of named(world, event, said)) {
      if (!known.has(key)) known.set(key, entry);
    }
    for (const [holds, reason] of [...agrees(world, said, event, known), ...judge(scene, event)]) {
      this.now.facts.push(holds);
      if (!holds) this.fault(reason, namesIn(world, said, event, scene, known));
    }
    this.scene = happen(world, scene, event, newcomer(world, event, known));
  }

  // Say what is wrong, in general and at the sentence.
  fault(reason, names = {}, sentences = this.now ? [this.now] : []) {
    const text = format(this.world, reason, names);
    for (const {reasons} of [this, ...sentences]) reasons.push(text);
  }

  unknownWords(words) {
    for (const word of new Set(words)) {
      if (this.world.known.has(word)) continue;
      const holding = this.each.filter((sentence) => sentence.words.includes(word));
      this.fault("word", {text: quoted(this.world, word)}, holding);
    }
  }

  // Whether the sentences make a story: a beginning, a dream, an end.
  whole() {
    const ends = this.kinds.indexOf("smile") === this.kinds.length - 1;
    return this.kinds[0] === "begin" && ends && this.scene.wish !== null;
  }
}

function format(world, reason, names) {
  return world.reasons[reason].replace(/{(\w+)}/g, (_, key) => names[key]);
}

// What keeps a sentence from meaning anything: people or things nobody has heard of.
function unheard(world, said, event, scene, known) {
  const nobody = (word) => ["nobody", {word: quoted(world, word)}];
  if (world.newcomers.includes(event.kind)) {
    if (number(known, "name", said.name) !== null) return ["twice", {name: said.name}];
    return event.kind !== "begin" && !scene.people.length ? nobody(said.his) : null;
  }
  if (event.kind === "together" && event.who === null && !said.who) {
    return nobody(world.reasons.they);
  }
  const keys = ["who", "to", "thing"].filter((key) => key in said && event[key] === null);
  const names = keys.map((key) => said[key]).join(world.reasons.names_or);
  return names ? ["unheard", {names}] : null;
}

// Whether a thing looks as it did, and a name is one for a woman or a man.
function* agrees(world, said, event, known) {
  if (said.look && event.kind !== "own") {
    yield [known.get(`look ${event.thing}`).word === said.look, "look"];
  }
  if (!world.newcomers.includes(event.kind)) return;
  const [gender, list] = newcomer(world, event, known);
  yield [list !== (gender === "woman" ? "male" : "female"), "name"];
}

// What fills the gaps of a reason: the words of the sentence, and what the text calls things.
function namesIn(world, said, event, scene, known) {
  const name = (kind, i) => known.get(`${kind} ${i}`).word;
  const names = {...said}, {people} = scene;
  for (const key of ["who", "to"]) {
    const i = event[key];
    if (i === null) continue;
    names[key] = name("name", i);
    if (i >= people.length) continue;
    names["at_" + key] = name("place", people[i].at);
    names["home_" + key] = name("place", people[i].home);
  }
  if (scene.last !== null) names.last = name("name", scene.last);
  if (event.pronoun) names.pronoun = world.pronouns[event.pronoun][0];
  if (event.his) names.his = world.pronouns[event.his][1];
  names.owner = names[event.kind === "smile" ? "who" : "to"];
  if (said.look) names.before = name("look", event.thing);
  const thing = event.thing === null ? undefined : scene.things[event.thing];
  names.holder = thing ? holder(world, thing, name) : "";
  names.dream = theDream(world, scene, name);
  return names;
}

// Who has a thing, or where it lies.
function holder(world, [how, i], name) {
  if (how === "with") return format(world, "held", {name: name("name", i)});
  return format(world, "lying", {place: name("place", i)});
}

// What became of the dream.
function theDream(world, scene, name) {
  if (scene.wish === null) return world.reasons.dreamless;
  return format(world, granted(scene) ? "came" : "never", {name: name("name", scene.wish[0])});
}

// 'so' in English, the same between Chinese marks in Chinese; inside as Python's `repr` writes it.
function quoted(world, text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = Array.from(text, (c) => shown(c, mark)).join("");
  return world.lang === "en" ? mark + inside + mark : `\u201c${inside}\u201d`;
}

function shown(c, mark) {
  if (c === mark || c === "\\") return "\\" + c;
  if (c === " " || !/[\p{C}\p{Z}]/u.test(c)) return c;
  const code = c.codePointAt(0).toString(16), short = {9: "\\t", a: "\\n", d: "\\r"}[code];
  if (short) return short;
  if (code.length <= 2) return "\\x" + code.padStart(2, "0");
  return code.length <= 4 ? "\\u" + code.padStart(4, "0") : "\\U" + code.padStart(8, "0");
}
