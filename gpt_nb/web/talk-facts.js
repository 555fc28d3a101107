// What can be asked about a story of level 1, what is true, and what an answer is worth: by the
// tables and rules of chapter 17, name for name. Of the wordings in training the page asks the
// first.
import { eventOf, granted, match, read } from "./tales.js";

const LANGS = ["en", "zh"];
export const REFUSAL = { en: "The text does not say.", zh: "文中没有说。" };

// What can be said: {a} is what a question is about, {b} is the answer.
export const SAID = {
  holder: ["{b} had the {a}.", "{a}在{b}手里。"],
  lies: ["The {a} was in the {b}.", "{a}在{b}里。"],
  at: ["{a} was in the {b}.", "{a}在{b}里。"],
  home: ["{a} lived in the {b}.", "{a}住在{b}里。"],
  role: ["{a} was a {b}.", "{a}是{b}。"],
  trait: ["{a} was {b}.", "{a}很{b}。"],
  friend: ["The friend of {a} was {b}.", "{a}的朋友是{b}。"],
  look: ["The {a} was {b}.", "{a}是{b}的。"],
  owner: ["At first {b} had the {a}.", "起初{a}在{b}手里。"],
  smile: ["Only {b} smiled.", "只有{b}笑了。"],
  wish_thing: ["{a} dreamed of the {b}.", "{a}梦想得到{b}。"],
  wish_place: ["{a} dreamed of the {b}.", "{a}梦想去{b}。"],
  came: ["In the end {a} smiled and {b} did not: the dream of {a} came true.",
    "最后{a}笑了，{b}没有笑：{a}的梦想实现了。"],
  failed: ["In the end {b} smiled and {a} did not: the dream of {a} did not come true.",
    "最后{b}笑了，{a}没有笑：{a}的梦想没有实现。"],
  give: ["{b} gave away the {a}.", "{b}送出了{a}。"],
  take: ["{b} took the {a}.", "{b}拿走了{a}。"],
  lose: ["{b} lost the {a}.", "{b}丢了{a}。"],
  find: ["{b} found the {a}.", "{b}找到了{a}。"],
};

// Other sentences that say the same.
export const ALSO = {
  holder: ["The {a} was with {b}.", "{b}有{a}。"],
  friend: ["{b} was the friend of {a}.", "{b}是{a}的朋友。"],
  owner: ["{b} had the {a} at first.", "{b}起初有{a}。"],
  came: ["The dream of {a} came true.", "{a}的梦想实现了。"],
  failed: ["The dream of {a} did not come true.", "{a}的梦想没有实现。"],
};
const LEADS = { en: /^(now|in the end|at last|then|only|one day) /,
  zh: /^(现在|最后|后来|只有|有一天)/ };

// What can be asked of a person, of a thing, and of neither.
const PERSON = {
  at: ["Where was {a} in the end?", "最后{a}在哪里？"],
  home: ["Where did {a} live?", "{a}住在哪里？"],
  role: ["Who was {a}?", "{a}是谁？"],
  trait: ["What was {a} like?", "{a}怎么样？"],
  friend: ["Who was the friend of {a}?", "{a}的朋友是谁？"],
  dream: ["What did {a} dream of?", "{a}梦想什么？"],
  true: ["Did the dream of {a} come true?", "{a}的梦想实现了吗？"],
};
const THING = {
  thing: ["Who had the {a} in the end?", "最后{a}在谁手里？"],
  look: ["How did the {a} look?", "{a}是什么样的？"],
  owner: ["Who had the {a} at first?", "起初{a}在谁手里？"],
  give: ["Who gave away the {a}?", "谁送出了{a}？"],
  take: ["Who took the {a}?", "谁拿走了{a}？"],
  lose: ["Who lost the {a}?", "谁丢了{a}？"],
  find: ["Who found the {a}?", "谁找到了{a}？"],
};
export const ASKED = { ...PERSON, ...THING, smile: ["Who smiled?", "谁笑了？"] };
export const OUTSIDE = [["How old was {a}?", "What did {a} eat?", "Where did {a} go to school?"],
  ["{a}多大了？", "{a}吃了什么？", "{a}在哪里上学？"]];

const filled = (forms, lang, a, b) =>
  forms[LANGS.indexOf(lang)].replaceAll("{a}", () => a).replaceAll("{b}", () => b);

// ---------------------------------------------------------------------------------------- facts

// The story in a text: what is known of it and the events, one a sentence; null: it holds none.
function understood(world, text) {
  const found = read(world, text);
  if (!found?.scene.over || found.rest) return null;
  const events = [];
  for (let at = 0, end; (end = text.indexOf(world.stop, at) + 1); at = end) {
    const { scene, known } = read(world, text.slice(0, at));
    const words = text.slice(at, end).match(world.unit);
    events.push(eventOf(world, ...match(world, words), known, scene));
  }
  return { ...found, events };
}

// All that may be asked of a story: [{kind, about, fact}, ...]. A fact is the key of SAID and the
// answer, or null where it is not clear which is meant. null: the text is no story of level 1.
export function factsIn(world, text) {
  const story = understood(world, text);
  if (!story) return null;
  const { scene, events, known } = story, called = (kind, i) => known.get(`${kind} ${i}`).word;
  const people = [0, 1].map((i) => called("name", i)), thing = called("thing", 0), facts = [];
  const add = (kind, about, key, answer) =>
    facts.push({ kind, about, fact: key && [key, answer] });
  const [how, place] = scene.things[0], [dreamer, sort, which] = scene.wish;
  if (how === "with") add("thing", thing, "holder", people[place]);
  else add("thing", thing, "lies", called("place", place));
  add("smile", "", "smile", people[events.at(-1).who]);
  for (const kind of ["trait", "role"]) add(kind, people[0], kind, called(kind, 0));
  add("look", thing, "look", called("look", 0));
  add("home", people[0], "home", called("place", 0));
  add("friend", people[0], "friend", people[1]);
  add("role", people[1], "role", called("role", 1));
  add("dream", people[dreamer], `wish_${sort}`, called(sort, which));
  add("true", people[dreamer], granted(scene) ? "came" : "failed", people[1 - dreamer]);
  for (const [i, { at }] of scene.people.entries()) add("at", people[i], "at", called("place", at));
  for (const [kind, who] of deeds(events)) {
    add(kind, thing, who === null ? null : kind, people[who]);
  }
  return facts;
}

// Who had, gave, took, lost or found the thing: kind -> who; null where that was done twice.
function deeds(events) {
  const done = new Map();
  for (const { kind, who } of events) {
    const name = kind === "own" ? "owner" : kind;
    if (name in THING) done.set(name, done.has(name) ? null : who);
  }
  return done;
}

// ------------------------------------------------------------------------------------- questions

const pick = (some, random) => some[Math.floor(random() * some.length)];

function shuffled(some, random) {
  const drawn = some.map((each) => [random(), each]);
  return drawn.sort(([a], [b]) => a - b).map(([, each]) => each);
}

// A question that means this story: {text, lang, kind, about, fact}; without a fact it cannot be
// answered.
const ask = ({ lang }, kind, about, fact = null) =>
  ({ text: filled(ASKED[kind], lang, about), lang, kind, about, fact });

// Four questions that the story answers, of four kinds, and three that it does not: what it leaves
// open, about somebody whom it does not name, and what no story tells. null: there is no story.
export function suggestions(world, text, random) {
  const facts = factsIn(world, text);
  if (!facts) return null;
  const known = shuffled(facts.filter(({ fact }) => fact), random);
  const first = known.filter(({ kind }, i) => known.findIndex((one) => one.kind === kind) === i);
  const can = first.slice(0, 4).map(({ kind, about, fact }) => ask(world, kind, about, fact));
  return { can, cannot: [ask(world, ...pick(untold(facts), random)),
    ask(world, pick(["at", "home", "role", "dream"], random), pick(others(world, text), random)),
    outside(world, facts, random)] };
}

// What no story of this world tells.
function outside({ lang }, facts, random) {
  const { about } = facts.find(({ kind }) => kind === "friend");
  const text = filled([0, 1].map((i) => pick(OUTSIDE[i], random)), lang, about);
  return { text, lang, kind: "outside", about, fact: null };
}

// What the story leaves open about its people and its thing: [kind, about].
function untold(facts) {
  const friend = facts.find(({ kind }) => kind === "friend");
  const thing = facts.find(({ kind }) => kind === "thing").about;
  const pairs = ["home", "trait", "dream", "true"].flatMap((kind) =>
    [friend.about, friend.fact[1]].map((person) => [kind, person]));
  pairs.push(...["give", "take", "lose", "find"].map((kind) => [kind, thing]));
  return pairs.filter(([kind, about]) =>
    !facts.some((one) => one.kind === kind && one.about === about));
}

// Names of level 1 that do not stand in the text.
function others({ lists }, text) {
  const names = [...lists.female, ...lists.male].map(({ word }) => word);
  return names.filter((name) => !text.includes(name));
}

// --------------------------------------------------------------------------------------- answers

export const truthOf = ({ lang, about, fact }) =>
  fact ? filled(SAID[fact[0]], lang, about, fact[1]) : REFUSAL[lang];

const WORD = /[\u3400-\u9fff]|[^\s\u3400-\u9fff]+/g;      // each Chinese character is one

// Words without capitals, marks, articles and what only leads to them.
function plain(said) {
  const lang = /[\u3400-\u9fff]/.test(said) ? "zh" : "en";
  const bare = said.trim().toLowerCase().replace(LEADS[lang], "").normalize("NFKC").toLowerCase();
  const words = bare.replace(/[\p{P}$+<=>^`|~]/gu, "").match(WORD) ?? [];
  return words.filter((word) => !["a", "an", "the"].includes(word)).join(" ");
}

// What an answer is worth in the world: "right", "wrong" or "refused".
export function judge(said, { lang, about, fact }) {
  const is = (good) => plain(said) === plain(good);
  if (is(REFUSAL[lang])) return "refused";
  if (!fact) return "wrong";
  const [key, word] = fact, forms = [SAID, ALSO].filter((table) => key in table);
  const good = forms.map((table) => filled(table[key], lang, about, word));
  if (key !== "came" && key !== "failed") good.push(word);
  return good.some(is) ? "right" : "wrong";
}
