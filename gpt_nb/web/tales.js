// The world of chapter 00 in JavaScript: how a story is told, and how its words are read again,
// by the rules of `gpt_nb.tales`, function for function and name for name.
//
// A scene (all that is true at one moment) and an event (what a sentence says) are plain objects
// that nobody changes. `known` is a Map from a slot, "thing 0", to the entry that spells it. A
// `world` holds the tables of `world_data(lang)` in Python, and what `tables` adds to them.

const NOTHING = {who: null, to: null, thing: null, place: null, topic: null, pronoun: "", his: ""};
const FIELDS = ["kind", ...Object.keys(NOTHING)];
const ROLES = ["woman", "man"];
const NUMBERED = {role: "who", name: "who", trait: "who", thing: "thing", look: "thing",
                  measure: "thing", place: "place", topic: "topic"};

const newEvent = (kind, what) => ({...NOTHING, kind, ...what});
const same = (a, b) => FIELDS.every((field) => a[field] === b[field]);
const numbers = (n) => [...Array(n).keys()];
const sum = (values) => values.reduce((a, b) => a + b, 0);

// The tables of a level, and what is looked up again and again.
export function tables(data, level) {
  const size = data.levels[level];
  if (!size) throw new Error(`there is no level ${level}: take 1, 2 or 3`);
  const world = {...data, level, size, chances: new WeakMap(), whole: new Map()};
  world.spelled = new Map([...entriesOf(data.words)].map((entry) => [entry.word, entry]));
  world.lists = listsOf(world);
  world.known = new Set(data.vocabulary);
  world.unit = unit(world);
  world.allowed = allowed(world);
  world.templates = templates(world);
  return world;
}

// ---- What can happen -----------------------------------------------------------------------

export const EMPTY = {people: [], things: [], places: 0, wish: null, seen: false, told: [],
                      last: null, events: 0, recaps: [], over: false};

const holds = (thing, how, i) => thing[0] === how && thing[1] === i;

// Whether the wish has come true.
export function granted(scene) {
  if (!scene.wish) return false;
  const [who, kind, which] = scene.wish;
  return kind === "thing" ? holds(scene.things[which], "with", who) : scene.seen;
}

// Check one sentence against the scene: what it takes for granted, and the fault where that fails.
export function* judge(scene, event) {
  const {kind, who, to, thing, place} = event, {people, things} = scene;
  if (kind === "begin") yield [people.length === 0, "begin"];
  if (event.pronoun) {
    yield [scene.last !== null && event.pronoun === people[scene.last].gender, "pronoun"];
  }
  if (event.his) yield [event.his === people[kind === "smile" ? who : to].gender, "his"];
  if (kind === "own") yield [thing === things.length, "own"];
  if (kind === "wish_thing" || kind === "wish_place") yield [scene.wish === null, "wish"];
  if (kind === "go" || kind === "together") yield [people[who].at !== place, "already"];
  if (["together", "give", "take", "tell"].includes(kind)) {
    yield [who !== to, "alone"];
    yield [people[who].at === people[to].at, "apart"];
  }
  if (["give", "lose", "has"].includes(kind)) yield [holds(things[thing], "with", who), kind];
  if (kind === "take") yield [holds(things[thing], "with", to), "take"];
  if (kind === "find") yield [holds(things[thing], "in", people[who].at), "find"];
  if (kind === "lies") yield [holds(things[thing], "in", place), "lies"];
  if (kind === "stands") yield [people[who].at === place, "stands"];
  if (kind === "knows") yield [wasTold(scene, event), "knows"];
  if (kind === "smile") {
    yield [scene.wish !== null && (scene.wish[0] === who) === granted(scene), "smile"];
    if (place !== null) yield [place === people[who].home, "home"];
  }
}

function wasTold(scene, {who, to, topic}) {
  return scene.told.some(([a, b, what]) => a === who && b === to && what === topic);
}

// What is true after the event; `person` is [gender, list of the name] of somebody new.
export function happen(world, scene, event, person) {
  const {kind, who, to, thing, place} = event;
  const people = [...scene.people], things = [...scene.things];
  let {wish, told, recaps} = scene;
  const move = (i) => { people[i] = {...people[i], at: place}; };
  if (world.newcomers.includes(kind)) {
    const home = place === null ? people[0].home : place;
    people.push({gender: person[0], name: person[1], at: home, home});
  } else if (kind === "own") things.push(["with", who]);
  else if (kind === "wish_thing") wish = [who, "thing", thing];
  else if (kind === "wish_place") wish = [who, "place", place];
  else if (kind === "go") move(who);
  else if (kind === "together") { move(who); move(to); }
  else if (kind === "give") things[thing] = ["with", to];
  else if (kind === "take" || kind === "find") things[thing] = ["with", who];
  else if (kind === "lose") things[thing] = ["in", people[who].at];
  else if (kind === "tell") told = [...told, [who, to, event.topic]];
  else if (world.recaps.includes(kind)) recaps = [...recaps, event];
  const places = place === null ? scene.places : Math.max(scene.places, place + 1);
  const seen = scene.seen || (wish !== null && wish[1] === "place" && grants(event, wish));
  const last = world.unclear.includes(kind) ? null : who;
  const events = scene.events + (kind in world.actions ? 1 : 0);
  return {people, things, places, wish, seen, told, last, events, recaps, over: kind === "smile"};
}

// Whether an event makes a wish come true.
function grants(event, [who, kind, which]) {
  if (kind === "place") {
    const there = event.place === which && (event.kind === "go" || event.kind === "together");
    return there && (who === event.who || who === event.to);
  }
  if (event.thing !== which) return false;
  if (event.kind === "give") return event.to === who;
  return (event.kind === "take" || event.kind === "find") && event.who === who;
}

// The events that may come next, each with its probability: [[event, p], ...]; kept for each scene.
function chances(world, scene) {
  if (!world.chances.has(scene)) world.chances.set(scene, possible(world, scene));
  return world.chances.get(scene);
}

function possible(world, scene) {
  const {size} = world, thing = scene.things.length;
  if (scene.people.length < size.people) return newcomers(world, scene);
  if (thing < size.things) {
    return evenly(numbers(size.people).map((i) => newEvent("own", {who: i, thing})));
  }
  if (scene.wish === null) return dreams(scene);
  const stop = stopping(scene, size), result = [];
  if (stop < 1) result.push(...actions(world, scene).map(([event, p]) => [event, p * (1 - stop)]));
  if (stop > 0) result.push(...evenly(recaps(world, scene), stop));
  return result;
}

// Give each the same share of the total.
const evenly = (events, total = 1) => events.map((event) => [event, total / events.length]);

// Who the story is about: the first person, then friends.
function newcomers(world, scene) {
  const i = scene.people.length;
  if (i === 0) return [[newEvent("begin", {who: 0, place: 0}), 1]];
  const friend = {who: i, to: 0, his: scene.people[0].gender};
  const kind = i === 1 ? "friend" : "other";
  if (!world.size.forms.friend[0].includes("{place}")) return [[newEvent(kind, friend), 1]];
  return evenly(numbers(scene.places + 1).map((place) => newEvent(kind, {...friend, place})));
}

// Somebody dreams of a thing that is another's, or of a place that is elsewhere.
function dreams(scene) {
  const toHave = [], toSee = [];
  scene.people.forEach((person, who) => {
    scene.things.forEach((holder, thing) => {
      if (!holds(holder, "with", who)) toHave.push(newEvent("wish_thing", {who, thing}));
    });
    for (const place of numbers(scene.places + 1)) {
      if (place !== person.at) toSee.push(newEvent("wish_place", {who, place}));
    }
  });
  return [...evenly(toHave, 0.5), ...evenly(toSee, 0.5)];
}

// The probability that nobody does anything more; every number of actions is as likely.
function stopping(scene, {events: [fewest, most]}) {
  if (scene.events < fewest) return 0;
  if (scene.recaps.length || scene.events === most) return 1;
  return 1 / (most - scene.events + 1);
}

// What the people may do now; some of the time they see to the wish.
function actions(world, scene) {
  const legal = conceivable(scene).filter((event) => event.kind in world.size.forms &&
    [...judge(scene, event)].every(([holds]) => holds));
  const kinds = [...new Set(legal.map((event) => event.kind))];
  const weight = sum(kinds.map((kind) => world.actions[kind]));
  const result = kinds.flatMap((kind) =>
    evenly(legal.filter((event) => event.kind === kind), world.actions[kind] / weight));
  const wanted = result.filter(([event]) => grants(event, scene.wish)).length;
  if (granted(scene) || !wanted) return result;
  return result.map(([event, p]) => {
    const purpose = grants(event, scene.wish) ? world.purpose / wanted : 0;
    return [event, p * (1 - world.purpose) + purpose];
  });
}

// Every action one can name, sensible or not.
function conceivable(scene) {
  const people = numbers(scene.people.length), things = numbers(scene.things.length);
  const places = numbers(scene.places + 1), topic = scene.told.length;
  const pairs = people.flatMap((who) => people.filter((to) => to !== who).map((to) => ({who, to})));
  const each = (kind, some, key, others) =>
    some.flatMap((what) => others.map((i) => newEvent(kind, {...what, [key]: i})));
  const alone = people.map((who) => ({who}));
  return [
    ...each("go", alone, "place", places),
    ...each("together", pairs.filter(({who, to}) => who < to), "place", places),
    ...each("give", pairs, "thing", things), ...each("take", pairs, "thing", things),
    ...each("lose", alone, "thing", things), ...each("find", alone, "thing", things),
    ...each("tell", pairs, "topic", [topic]),
  ];
}

// How a story ends: where people and things are now, and who smiles.
function recaps(world, scene) {
  if (scene.recaps.length < world.size.recaps) {
    return allRecaps(scene).filter((event) => !scene.recaps.some((said) => same(said, event)));
  }
  const happy = numbers(scene.people.length)
    .filter((i) => (i === scene.wish[0]) === granted(scene));
  if (!world.size.forms.smile[0].includes("{place}")) {
    return happy.map((who) => newEvent("smile", {who}));
  }
  return happy.map((who) => {
    const {home, gender} = scene.people[who];
    return newEvent("smile", {who, place: home, his: gender});
  });
}

// All that may be said again: who has what, what lies where, who is where, who knows what.
function allRecaps(scene) {
  return [
    ...scene.things.map(([how, i], thing) => how === "with" ?
      newEvent("has", {who: i, thing}) : newEvent("lies", {thing, place: i})),
    ...scene.people.map((person, who) => newEvent("stands", {who, place: person.at})),
    ...scene.told.map(([who, to, topic]) => newEvent("knows", {who, to, topic})),
  ];
}

// ---- How it is said ------------------------------------------------------------------------

// The ways to tell an event in a scene, all equally likely: [{event, form}, ...]
function ways(world, event, scene) {
  const said = [event], understood = event.who !== null && event.who === scene.last;
  if (understood && world.pronoun_kinds.includes(event.kind)) {
    said.push({...event, pronoun: scene.people[event.who].gender});
  }
  const first = scene.events === 0 ? world.first : world.size.then;
  const links = event.kind in world.actions ? first.map((link) => link + " ") : [""];
  return said.flatMap((event) => links.flatMap((link) =>
    world.size.forms[event.kind].map((form) => ({event, form: link + form}))));
}

// The atoms of a sentence: words, and slots {kind, index} for those that depend on the story.
function fill(world, form, event) {
  return form.split(" ").map((word, i) => atomOf(world, word, event, i === 0));
}

function atomOf(world, word, event, start) {
  if (word[0] !== "{") return word;
  const key = word.slice(1, -1);
  if (key === "who" && event.pronoun) return cased(world.pronouns[event.pronoun][0], start);
  if (/^his/i.test(key)) return cased(world.pronouns[event.his][1], key[0] === "H");
  if (key === "who" || key === "to") return {kind: "name", index: event[key]};
  return {kind: key, index: event[NUMBERED[key]]};
}

const cased = (word, capital) => capital ? word[0].toUpperCase() + word.slice(1) : word;

// How a word is joined to the text before it: in English with a space, but marks without.
function surface(world, word) {
  return world.lang === "en" && !world.marks.includes(word) ? " " + word : word;
}

export const join = (world, words) =>
  words.map((word) => surface(world, word)).join("").replace(/^ /, "");

// The slot whose entry spells the atom: the measure word belongs to the thing.
const entryOf = (atom) => atom.kind === "measure" ? {kind: "thing", index: atom.index} : atom;
const keyOf = ({kind, index}) => `${kind} ${index}`;

// The word for an atom.
function spell(known, atom) {
  if (typeof atom === "string") return atom;
  const entry = known.get(keyOf(entryOf(atom)));
  return atom.kind === "measure" ? entry.measure : entry.word;
}

// The entries a new slot may take, all equally likely: two people never share a name.
function candidates(world, {kind, index}, known) {
  const list = kind === "name" ? `name of a ${known.get(`role ${index}`).kind}` : kind;
  if (["role", "trait", "look"].includes(kind)) return world.lists[list];
  const used = new Set();
  for (const [key, entry] of known) if (key.startsWith(kind + " ")) used.add(entry);
  return world.lists[list].filter((entry) => !used.has(entry));
}

// [gender, list of the name] of the person an event introduces.
export function newcomer(world, event, known) {
  if (!world.newcomers.includes(event.kind)) return null;
  return [known.get(`role ${event.who}`).kind, known.get(`name ${event.who}`).kind];
}

// One story: an event, a way to say it, words for what is new, until somebody smiles.
export function tell(world, random) {
  const words = [], known = new Map();
  let scene = EMPTY;
  while (!scene.over) {
    const told = ways(world, pick(chances(world, scene), random()), scene);
    const {event, form} = told[Math.floor(random() * told.length)];
    const atoms = fill(world, form, event);
    for (const slot of atoms.filter((atom) => atom.kind).map(entryOf)) {
      if (known.has(keyOf(slot))) continue;
      const entries = candidates(world, slot, known);
      known.set(keyOf(slot), entries[Math.floor(random() * entries.length)]);
    }
    words.push(...atoms.map((atom) => spell(known, atom)));
    scene = happen(world, scene, event, newcomer(world, event, known));
  }
  return join(world, words);
}

// The event whose share of the line from 0 to 1 holds the point.
function pick(events, at) {
  for (const [event, p] of events) {
    at -= p;
    if (at < 0) return event;
  }
  return events.at(-1)[0];
}

// ---- The words -----------------------------------------------------------------------------

// Every word with its list and, in Chinese, its measure word.
function* entriesOf(words) {
  for (const [kind, entries] of Object.entries(words)) {
    for (const [word, measure] of entries) yield {word, measure, kind};
  }
}

// The words of a level, by what they name.
function listsOf({words, spelled, size}) {
  const lists = {};
  for (const [kind, entries] of Object.entries(words)) {
    lists[kind] = entries.slice(0, size.words[kind]).map(([word]) => spelled.get(word));
  }
  lists.role = [...lists.woman, ...lists.man];
  lists["name of a woman"] = [...lists.female, ...lists.either];
  lists["name of a man"] = [...lists.male, ...lists.either];
  return lists;
}

// What Python calls a space and a letter; JavaScript's \s and \w are others.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f" +
  "\\u205f\\u3000";
const LETTER = "\\p{L}\\p{N}_";
export const TRAILING = new RegExp(`[${SPACE}]+$`, "u");

// A word or a mark; in Chinese the longest word of the world that fits.
function unit(world) {
  const special = `<\\|[${LETTER}]+\\|>`;
  if (world.lang === "en") {
    return new RegExp(`${special}|[${LETTER}'\\-]+|[^${LETTER}${SPACE}]`, "gu");
  }
  const words = [...world.known].sort((a, b) => b.length - a.length)
    .map((word) => word.replace(/[.?|]/g, "\\$&"));
  return new RegExp(`${special}|${words.join("|")}|[a-zA-Z]+|[^${SPACE}]`, "gu");
}

// The words that may stand for each {key} of a form; Who is who at the start of a sentence.
function allowed(world) {
  const words = {}, [he, his] = [0, 1].map((i) => ROLES.map((role) => world.pronouns[role][i]));
  const capitals = (some) => some.map((word) => cased(word, true));
  for (const kind in world.words) words[kind] = world.words[kind].map(([word]) => word);
  words.name = words.to = [...words.female, ...words.male, ...words.either];
  words.who = [...words.name, ...he];
  words.Who = [...words.name, ...capitals(he)];
  words.role = [...words.woman, ...words.man];
  words.his_to = words.his_who = his;
  words.His_to = capitals(his);
  words.measure = world.words.thing.map(([, measure]) => measure);
  return Object.fromEntries(Object.entries(words).map(([key, some]) => [key, new Set(some)]));
}

// ---- Reading -------------------------------------------------------------------------------

// The forms of all levels by their number of words: Map(number -> [[kind, parts], ...])
function templates(world) {
  const result = new Map(), short = world.levels[1].forms;
  for (const [kind, long] of Object.entries(world.levels[3].forms)) {
    for (const form of new Set([...(short[kind] ?? []), ...long])) {
      const parts = form.split(" ");
      if (!result.has(parts.length)) result.set(parts.length, []);
      result.get(parts.length).push([kind, parts]);
    }
  }
  return result;
}

// The form of a sentence, [kind, {key: word}]; null if it is no sentence of the world.
export function match(world, words) {
  const skip = linkLength(world, words);
  for (const [kind, parts] of world.templates.get(words.length - skip) ?? []) {
    if (skip && !(kind in world.actions)) continue;
    const said = fits(world, parts, words.slice(skip), !skip);
    if (said) return [kind, said];
  }
  return null;
}

// How many words link the sentence to what was said before.
function linkLength(world, words) {
  const link = world.links.find((link) => link.every((word, i) => words[i] === word));
  return link ? link.length : 0;
}

// The words for the keys of a form, or null if a word does not fit.
function fits(world, parts, words, start) {
  const said = {};
  for (const [i, part] of parts.entries()) {
    const key = part.replace(/[{}]/g, "");
    if (key === part) {
      if (words[i] !== part) return null;
      continue;
    }
    if (!world.allowed[key === "who" && start && i === 0 ? "Who" : key].has(words[i])) return null;
    said[/^his/i.test(key) ? "his" : key] = words[i];
  }
  if (!said.measure) return said;
  return said.measure === world.spelled.get(said.thing).measure ? said : null;
}

// "woman" or "man" for a pronoun.
function genderOf(world, word = "") {
  return ROLES.find((role) => world.pronouns[role].includes(word.toLowerCase())) ?? "";
}

// The number of what a word names; the next free one if it may be new; else null.
export function number(known, kind, word, isNew = false) {
  if (word === undefined) return null;
  let met = 0;
  for (const [key, entry] of known) {
    if (!key.startsWith(kind + " ")) continue;
    if (entry.word === word) return Number(key.slice(kind.length));
    met += 1;
  }
  return isNew ? met : null;
}

// The event a sentence tells; null stands for a person or thing nobody has heard of.
export function eventOf(world, kind, said, known, scene) {
  const pronoun = genderOf(world, said.who), his = genderOf(world, said.his);
  let who = pronoun ? scene.last : number(known, "name", said.who);
  let to = number(known, "name", said.to);
  const people = scene.people.length;
  if (world.newcomers.includes(kind)) [who, to] = [people, kind === "begin" ? null : 0];
  if (kind === "together" && !said.who) [who, to] = people > 1 ? [0, 1] : [null, null];
  const thing = number(known, "thing", said.thing, kind === "own");
  const place = number(known, "place", said.place, true);
  const topic = number(known, "topic", said.topic, true);
  return {kind, who, to, thing, place, topic, pronoun, his};
}

// What the words of a sentence name: [[slot, entry], ...]
export function named(world, event, said) {
  return Object.entries(said).filter(([key]) => key in NUMBERED && key !== "measure")
    .map(([key, word]) => [`${key} ${event[NUMBERED[key]]}`, world.spelled.get(word)]);
}

// {p, event, known} of a whole sentence; null if the world cannot say it now.
function readSentence(world, text, scene, known) {
  const found = match(world, text.match(world.unit) ?? []);
  if (!found) return null;
  const event = eventOf(world, ...found, known, scene), plain = {...event, pronoun: ""};
  const [, chance] = chances(world, scene).find(([other]) => same(other, plain)) ?? [];
  if (!chance) return null;
  const then = new Map([...named(world, event, found[1]), ...known]);
  const told = ways(world, plain, scene);
  for (const way of told.filter((way) => same(way.event, event))) {
    const atoms = fill(world, way.form, event);
    if (text !== atoms.map((atom) => surface(world, spell(then, atom))).join("")) continue;
    const p = chance / told.length * naming(world, atoms, known, then);
    return p ? {p, event, known: then} : null;
  }
  return null;
}

// The probability that what is new in a sentence gets these names.
function naming(world, atoms, known, then) {
  let p = 1;
  known = new Map(known);
  for (const slot of atoms.filter((atom) => atom.kind).map(entryOf)) {
    const key = keyOf(slot), entry = then.get(key);
    if (known.has(key)) continue;
    const entries = candidates(world, slot, known);
    p *= entries.includes(entry) / entries.length;
    known.set(key, entry);
  }
  return p;
}

// Read whole sentences: {bits, scene, known, rest}; null if the world cannot have told them.
// What was read before is kept, so that a text that grows word by word is not read again.
export function read(world, text) {
  if (world.lang === "en" && text) text = " " + text;
  let found = {bits: 0, scene: EMPTY, known: new Map()}, at = 0;
  while (found && !found.scene.over) {
    const end = text.indexOf(world.stop, at) + 1, head = text.slice(0, end);
    if (!end) break;
    if (!world.whole.has(head)) {
      if (world.whole.size > 1000) world.whole.clear();
      world.whole.set(head, readOn(world, text.slice(at, end), found));
    }
    found = world.whole.get(head);
    at = end;
  }
  return found && {...found, rest: text.slice(at)};
}

function readOn(world, sentence, {bits, scene, known}) {
  const found = readSentence(world, sentence, scene, known);
  if (!found) return null;
  const person = newcomer(world, found.event, found.known);
  scene = happen(world, scene, found.event, person);
  return {bits: bits + Math.log2(found.p), scene, known: found.known};
}

// Every way the text can be these atoms or their beginning: {p, known, word, missing, atoms} with
// the word it stops in, what that lacks, and the atoms after it.
export function* readings(world, atoms, text, known, p) {
  if (!atoms.length) {
    if (!text) yield {p, known, word: "", missing: "", atoms};
    return;
  }
  const [atom, ...later] = atoms, slot = atom.kind ? entryOf(atom) : null;
  const settled = !slot || known.has(keyOf(slot));
  const entries = settled ? [null] : candidates(world, slot, known);
  for (const entry of entries) {
    const then = entry ? new Map(known).set(keyOf(slot), entry) : known;
    const said = surface(world, spell(then, atom)), share = p / entries.length;
    if (text.startsWith(said)) {
      yield* readings(world, later, text.slice(said.length), then, share);
    } else if (said.startsWith(text)) {
      yield {p: share, known: then, word: said, missing: said.slice(text.length), atoms: later};
    }
  }
}

// The ways to go on with a sentence that begins with the text, each with its scene and event.
export function* begun(world, text, scene, known, share = 1) {
  for (const [event, p] of chances(world, scene)) {
    const told = ways(world, event, scene);
    for (const way of told) {
      const atoms = fill(world, way.form, way.event);
      for (const reading of readings(world, atoms, text, known, share * p / told.length)) {
        yield {...reading, scene, event: way.event};
      }
    }
  }
}

// log2 of the exact probability of a story, or of all stories that begin so.
export function log2prob(world, text, complete) {
  const found = read(world, text);
  if (!found) return -Infinity;
  const {bits, scene, known, rest} = found;
  if (scene.over) return rest ? -Infinity : bits;
  if (complete) return -Infinity;
  return rest ? bits + Math.log2(sum([...begun(world, rest, scene, known)].map(({p}) => p))) : bits;
}

// Likeliest first, and so that all sum to 1.
export function normalised(shares) {
  const total = sum([...shares.values()]);
  return new Map([...shares].sort(([, a], [, b]) => b - a).map(([key, p]) => [key, p / total]));
}

export const add = (shares, key, p) => shares.set(key, (shares.get(key) ?? 0) + p);

// The distribution of what comes next, called as `name(word, missing)` says; null leaves it out.
export function nextWord(world, prefix, name) {
  const found = read(world, prefix), shares = new Map();
  if (!found) return shares;
  if (found.scene.over) return found.rest ? shares : shares.set("<|end|>", 1);
  for (const {p, word, missing} of begun(world, found.rest, found.scene, found.known)) {
    const key = name(word, missing);
    if (key !== null) add(shares, key, p);
  }
  return normalised(shares);
}
