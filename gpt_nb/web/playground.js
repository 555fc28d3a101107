// The page: a beginning is typed, a model goes on with it, and the truth stands beside each guess.
import { sample, seeded } from "./engine.js";
import { EXAMPLES, TEXT, line } from "./playground-text.js";
import { LEAST, Options, Writing, overlap, wordsAt } from "./playground-writing.js";
import { offerModels, openOnce, readModels, short, speak, visible, writers } from "./shelf.js";
import { turn } from "./turn.js";

const page = document.querySelector(".playground");
const $ = (id) => document.getElementById(id);
const SHOWN = 9;                       // rows of the list
const LONG_TOKEN = 20;                 // characters: no text has tokens so long throughout
const FIRST_LOOK = { layer: 1, head: 0 };
const SETTINGS = {                     // name in engine.js: id, limits, start, slider's limits
  temperature: { id: "temperature", low: 0, high: 10, at: 1, slide: [0, 2, 0.05] },
  topP: { id: "top-p", low: 0.01, high: 1, at: 1, slide: [0.05, 1, 0.05] },
  topK: { id: "top-k", low: 0, high: 100000, at: 0, slide: [0, 40, 1], whole: true },
  minP: { id: "min-p", low: 0, high: 1, at: 0, slide: [0, 0.5, 0.01] },
  seed: { id: "seed", low: 0, high: 4294967295, at: 1, whole: true },
};
const state = {
  models: [], entry: null, lang: "en", opened: new Map(), writing: null, world: null,
  place: null, job: null, look: null, told: 0, darts: [], random: null,
};
const say = (name, values) => line(state.lang, name, values);
const stopped = () => new DOMException("stopped", "AbortError");

// ----------------------------------------------------------------------------- words of the page

// A line, and before it a doubt if there is one.
function tell(text, wrong = false, doubt = "") {
  const first = document.createElement("span");
  first.textContent = doubt, first.className = "wrong";
  $("say").replaceChildren(...(doubt ? [first, " "] : []), text);
  $("say").className = wrong ? "wrong" : "";
}

// Everything in the language of the chosen model.
function speakAll() {
  speak(page, state.lang, TEXT[state.lang]);
  $("prompt").placeholder = say("placeholder");
  $("story").dataset.waiting = say("waiting");
}

// 1.2 million, 119 万; small numbers as they are.
function many(n) {
  const [unit, digits] = state.lang === "zh" ? [1e4, 0] : [1e6, 1];
  if (n < (state.lang === "zh" ? 1e5 : 1e6)) return n.toLocaleString("en");
  return say("many", { n: (n / unit).toFixed(digits).replace(/\.0$/, "") });
}

const size = (n) => n < 1e5 ? `${Math.ceil(n / 1e3)} kB` : `${(n / 1e6).toFixed(1)} MB`;

// 0.4213 as 42 %, small shares with a digit more.
function percent(share) {
  const p = 100 * share;
  if (p > 0 && p < 0.05) return say("percent", { p: "<0.1" });
  return say("percent", { p: p >= 9.95 || p === 0 ? Math.round(p) : p.toFixed(1) });
}

const quote = (text) => say("quote", { text: visible(text) });

// -------------------------------------------------------------------------------------- settings

function makeSettings() {
  const box = page.querySelector(".settings");
  for (const [name, { id, low, high, at, slide, whole }] of Object.entries(SETTINGS)) {
    const slider = slide ? `<input type="range" data-of="${id}" min="${slide[0]}" max="${slide[1]}"
      step="${slide[2]}" value="${at}" tabindex="-1" aria-hidden="true">` : "<span></span>";
    box.insertAdjacentHTML("beforeend", `<p class="setting"><label for="${id}" data-text="${name}">
      </label>${slider}<input type="number" id="${id}" min="${low}" max="${high}" value="${at}"
      step="${whole ? 1 : "any"}" aria-describedby="${id}-help">
      <small id="${id}-help" data-text="${name}Help"></small></p>`);
  }
  box.insertAdjacentHTML("beforeend", `<p class="setting"><label for="pace" data-text="pace">
    </label><select id="pace"><option value="fast" data-text="fast"></option>
    <option value="slow" data-text="slow"></option></select></p>`);
}

// What stands in the fields; null, and a line that says why, where it is no such number.
function readSettings() {
  const values = {};
  for (const [name, { id, low, high, whole }] of Object.entries(SETTINGS)) {
    const text = $(id).value.trim(), value = Number(text);
    const inside = text !== "" && value >= low && value <= high;
    const good = inside && (!whole || Number.isInteger(value));
    $(id).setAttribute("aria-invalid", String(!good));
    if (!good) {
      const what = say(whole ? "whole" : "number", { low, high });
      tell(say("needsNumber", { name: say(name), what }), true);
      return null;
    }
    values[name] = value;
  }
  const { temperature, topP, topK, minP, seed } = values;
  const cuts = { ...(topP < 1 && { topP }), ...(topK && { topK }), ...(minP && { minP }) };
  return { how: { temperature, ...cuts }, seed };
}

// Whether tokens are drawn as the model says.
const isPlain = (how) => how.temperature === 1 && Object.keys(how).length === 1;

// ---------------------------------------------------------------------------------------- opening

// The chosen model and its world, fetched when they are first needed.
function open(entry, signal) {
  if (!state.opened.has(entry.name)) tell(say("loading"));
  return openOnce(state.opened, entry, signal, say);
}

function choose(entry) {
  stop();
  const foreign = Object.entries(EXAMPLES).filter(([key]) => !key.startsWith(entry.lang));
  if (foreign.some(([, texts]) => texts.includes($("prompt").value))) $("prompt").value = "";
  Object.assign(state, { entry, lang: entry.lang, writing: null, world: null, place: null });
  speakAll();
  $("about").textContent = say("about", { n: many(entry.parameters), size: size(entry.bytes) });
  for (const line of page.querySelectorAll('[data-text="truth"]')) line.hidden = !entry.world;
  makeExamples();
  tell("");
  clear();
}

function makeExamples() {
  const { entry } = state, known = EXAMPLES[`${entry.lang}-${entry.level}`] ?? [];
  $("examples").textContent = known.length ? `${say("examples")} ` : "";
  for (const text of known) {
    const button = document.createElement("button");
    button.type = "button", button.textContent = text, button.className = "example";
    button.addEventListener("click", () => { $("prompt").value = text; $("prompt").focus(); });
    $("examples").append(button, " ");
  }
}

// The line for an error.
function explain(error) {
  const known = { damaged: "cut", missing: "missing", version: "broken", format: "broken" };
  tell(say(known[error.code] ?? "failed", { what: short(error.message, 200) }), true);
}

// ---------------------------------------------------------------------------------------- writing

function stop() { state.job?.abort(); }

// One piece of work at a time: what runs is stopped first.
async function work(task) {
  stop();
  state.look?.abort();
  const job = state.job = new AbortController();
  $("stop").disabled = false;
  $("on").hidden = true;
  page.setAttribute("aria-busy", "true");
  try { await task(job.signal); } catch (error) {
    if (error.name !== "AbortError") explain(error);
    else if (state.job === job) tell(stopLine());
  }
  if (state.job !== job) return;       // something newer runs
  state.job = null;
  page.removeAttribute("aria-busy");
  rest();
}

function stopLine() {
  return state.writing ? say("stopped", { n: state.writing.written }) : say("stoppedEarly");
}

// Buttons and lists when nothing is being written.
function rest() {
  const { writing } = state;
  if (document.activeElement === $("stop")) $("write").focus();
  $("stop").disabled = true;
  $("on").hidden = !writing || writing.over || writing.full;
  if (writing) show();
}

// What is wrong with the beginning that was read, as one line; nothing where all is well.
function doubts({ tok, typed, typedIds, ids }) {
  if (tok.unknown != null && typedIds.includes(tok.unknown)) return unknownWords(tok, typed);
  const words = wordsAt(state.writing, ids.length, state.world);
  return words?.length === 0 ? say("noTruth") : "";
}

function unknownWords(tok, typed) {
  const words = typed.match(/[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]/gu) ?? [];
  const isOdd = (word) => tok.encode(word).includes(tok.unknown);
  const odd = words.filter((word) => isOdd(word) && isOdd(` ${word}`));
  const named = [...new Set(odd)].slice(0, 4).map(quote).join(say("and"));
  const name = state.world ? "unknown" : "unseenWord";
  return say(name, { words: named || quote(typed) });
}

function encode(tok, typed) {
  try { return tok.encode(typed); } catch (error) {
    const odd = [...new Set(typed)].filter((c) => {
      try { tok.encode(c); return false; } catch { return true; }
    });
    const words = odd.slice(0, 4).map(quote).join(say("and"));
    tell(odd.length ? say("unseen", { words }) : say("failed", { what: error.message }), true);
    return null;
  }
}

// The beginning; in a story every space is one.
function typedText() {
  const typed = $("prompt").value;
  return state.entry.world ? typed.trim().replace(/\s+/g, " ") : typed;
}

// Read the beginning anew; false where that cannot be done.
async function begin(signal) {
  const { model, world } = await open(state.entry, signal), typed = typedText();
  if (signal.aborted) throw stopped();
  const most = model.config.context - 1;
  if (typed.length > most * LONG_TOKEN) {          // cutting it into tokens could take minutes
    tell(say("tooMuch", { n: typed.length.toLocaleString("en"), context: most }), true);
    return false;
  }
  const ids = encode(model.tok, typed);
  if (!ids) return false;
  if (ids.length > most) {
    tell(say("tooLong", { n: ids.length, most, context: most }), true);
    return false;
  }
  clear();
  state.typed = typed;
  tell(say("reading"));
  Object.assign(state, { writing: new Writing(model), world, place: null, told: 0 });
  fillHeads(model.config);
  if (!await state.writing.begin(typed, ids, signal)) throw stopped();
  state.doubt = doubts(state.writing);
  return true;
}

// The number that decides about the token at a place: the same for the same seed.
function dart(seed, place) {
  if (state.random?.seed !== seed) {
    state.random = { seed, next: seeded(seed) };
    state.darts = [];
  }
  while (state.darts.length <= place) state.darts.push(state.random.next());
  return state.darts[place];
}

// Draw tokens until the story ends, the model is full, or the reader stops; at most n.
async function go(signal, n = Infinity) {
  const { writing } = state, began = performance.now(), from = writing.ids.length;
  let drawn = 0, painted = 0;
  tell(say("writing"));
  for (; (drawn < n || writing.half) && !writing.over && !writing.full; drawn++) {
    const settings = readSettings();
    if (!settings) return;
    const place = writing.ids.length;
    writing.add(sample(writing.scores[place - 1], settings.how, () => dart(settings.seed, place)));
    painted = await paint(painted, signal);
    if (signal.aborted) break;
  }
  if (state.writing === writing) drawStory();     // else another model was chosen meanwhile
  if (signal.aborted) throw stopped();
  const seconds = (performance.now() - began) / 1000, made = writing.ids.length - from;
  finish(n, Math.round(made / seconds));
}

// Show what is new, but not more often than eyes can follow; give when it was last shown.
async function paint(painted, signal) {
  const slow = $("pace").value === "slow";
  if (!slow && performance.now() - painted < 60) { await turn(); return painted; }
  drawStory();
  await turn();
  if (signal.aborted) return painted;
  if (state.place === null) await showNext(signal);   // else the list of that place stands
  await (slow ? wait(250, signal) : turn());
  return performance.now();
}

function finish(n, speed) {
  const { writing } = state, { context } = writing.config;
  const ended = writing.over ? say("done", { n: writing.written, speed })
    : writing.full ? say("contextFull", { context }) : say("one", { n: writing.written });
  tell(ended, false, state.doubt);
}

function wait(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

// Begin anew, and write a story or n tokens of it.
function write(n) {
  if (!readSettings()) return;
  if (!state.entry) { offer().then(() => state.entry && write(n)); return; }
  bringNear(page.querySelector(".buttons"), "start");
  work(async (signal) => { if (await begin(signal)) await go(signal, n); });
}

function goOn(n) {
  if (!readSettings()) return;
  state.place = null;
  work((signal) => go(signal, n));
}

function step() {
  const { writing } = state, typed = state.entry && typedText();
  const same = writing && !writing.over && !writing.full && state.typed === typed;
  if (same) goOn(1);
  else write(1);
}

// Put another word at a place, and go on from there.
function take(row, place) {
  if (!readSettings()) return;
  work(async (signal) => {
    const { writing } = state;
    state.place = null;
    if (row.ids) { writing.cut(place); await writing.readAll(row.ids, signal); }
    else await retype(writing, writing.textBefore(place)[0] + row.text, row.end, signal);
    state.doubt &&= doubts(writing);
    drawStory();
    focusToken(state.tokens.length - 1);
    if (signal.aborted) throw stopped();
    await go(signal);
  });
}

// A word that the model would hardly write: the text with it is cut into tokens anew.
async function retype(writing, text, end, signal) {
  const ids = [writing.first, ...writing.tok.encode(text), ...(end ? [writing.tok.endId] : [])];
  let same = 0;
  while (same < ids.length && ids[same] === writing.ids[same]) same++;
  writing.cut(same);
  await writing.readAll(ids.slice(same), signal);
}

// -------------------------------------------------------------------------------------- the story

function clear() {
  $("story").replaceChildren();
  $("verdict").replaceChildren();
  $("next").hidden = true;
  $("attention").hidden = true;
  $("agree").textContent = "", $("spoken").textContent = "";
  $("place").textContent = say("nothing");
  Object.assign(state, { tokens: [], told: 0, faults: [] });
}

function drawStory() {
  const { writing } = state, { groups } = writing, tokens = $("story").children;
  judge(groups);
  state.tokens = groups;
  for (const [i, group] of groups.entries()) drawToken(tokens[i] ?? newToken(), group);
  while (tokens.length > groups.length) $("story").lastChild.remove();
  if (![...tokens].some((token) => token.tabIndex === 0)) tokens[0].tabIndex = 0;
}

function newToken() {
  const token = document.createElement("span");
  token.setAttribute("role", "button");
  token.tabIndex = -1;
  $("story").append(token);
  return token;
}

// A token with the marks of the sentences that it belongs to; left alone where it is as it was.
function drawToken(token, { from, to, text, mark, start }) {
  const { writing, place } = state, ids = writing.ids.slice(from, to);
  const parts = cutAt(text, start, state.faults);
  const typed = from <= writing.typedIds.length;
  const key = JSON.stringify([ids, parts, typed, mark]);
  if (token.dataset.key !== key) {
    token.dataset.key = key;
    token.dataset.id = ids.join(" ");
    const lines = /^\s*\n\s*$/.test(text) && "lines";
    token.className = ["token", mark, typed && "typed", lines].filter(Boolean).join(" ");
    token.replaceChildren(...parts.map(([piece, wrong, note]) => {
      if (!wrong) return document.createTextNode(piece);
      const span = document.createElement("span");
      span.className = "fault", span.textContent = piece;
      if (note) span.dataset.note = note;
      return span;
    }));
    const edge = mark === "start" || mark === "end" ? say(mark) : "";
    for (const name of ["title", "aria-label"]) {
      if (edge) token.setAttribute(name, edge);
      else token.removeAttribute(name);
    }
  }
  const pressed = String(place !== null && place >= from && place < to);
  if (token.ariaPressed !== pressed) token.ariaPressed = pressed;
}

// A token's text cut where sentences with faults begin and end: [text, wrong, number of the note].
function cutAt(text, start, faults) {
  const parts = [], end = start + text.length;
  let at = start;
  for (const fault of faults) {
    const low = Math.max(fault.start, at), high = Math.min(fault.end, end);
    if (low >= high) continue;
    if (low > at) parts.push([text.slice(at - start, low - start), false, 0]);
    parts.push([text.slice(low - start, high - start), true, high === fault.end ? fault.note : 0]);
    at = high;
  }
  if (at < end) parts.push([text.slice(at - start), false, 0]);
  return parts;
}

// Ask the checker whenever a sentence has ended, and say so where nobody sees it.
function judge(groups) {
  let text = "";
  for (const group of groups) { group.start = text.length; text += group.text; }
  const { world, lang, writing } = state;
  if (!world) { state.faults = []; return; }
  const ends = (text.match(lang === "zh" ? /。/g : /\./g) ?? []).length;
  const over = writing.over;
  if (state.judged?.writing === writing && state.judged.ends === ends &&
      state.judged.over === over && text.startsWith(state.judged.text)) return;
  state.judged = { writing, ends, over, text: text.slice(0, text.search(/[^.。]*$/)) };
  const found = world.check(text);
  let note = 0;
  state.faults = found.each.filter(({ reasons }) => reasons.length)
    .map((sentence) => ({ ...sentence, note: ++note }));
  drawVerdict(found);
  speakSentences(text, found.each);
}

function drawVerdict({ each, reasons: all }) {
  const { writing, faults } = state, box = $("verdict");
  const list = document.createElement("ul");
  const lines = (reasons) => reasons.map((reason) => short(reason, 200)).join(say("also"));
  for (const { note, reasons } of faults) add(list, `${note}. ${lines(reasons)}`);
  const known = new Set(each.flatMap(({ reasons }) => reasons));
  const whole = writing.over ? all.filter((reason) => !known.has(reason)) : [];
  if (whole.length) add(list, `${say("whole_")}: ${lines(whole)}`);
  const n = say(each.length === 1 ? "sentence" : "sentences", { n: each.length });
  const good = writing.over ? say("holds") : each.length ? say("soFar", { n }) : "";
  const head = document.createElement("p");
  head.textContent = list.children.length ? say("wrongs") : good;
  head.className = list.children.length ? "wrong" : "right";
  box.replaceChildren(...(head.textContent ? [head] : []), ...(list.children.length ? [list] : []));
}

function add(list, text) {
  const item = document.createElement("li");
  item.textContent = text;
  list.append(item);
}

// A finished sentence is read aloud once, with what is wrong with it.
function speakSentences(text, sentences) {
  if (sentences.length < state.told) state.told = 0;
  const fresh = sentences.slice(state.told).map(({ start, end, reasons }) =>
    `${text.slice(start, end).trim()} ${reasons.join(say("and"))}`);
  state.told = sentences.length;
  if (fresh.length) $("spoken").textContent = fresh.join(" ");
}

// ----------------------------------------------------------------------------- keys in the story

function focusToken(i) {
  const tokens = [...$("story").children], at = Math.max(0, Math.min(i, tokens.length - 1));
  for (const token of tokens) token.tabIndex = -1;
  if (!tokens[at]) return;
  tokens[at].tabIndex = 0;
  tokens[at].focus({ preventScroll: true });
  tokens[at].scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  const tokens = [...$("story").children], at = tokens.indexOf(event.target.closest(".token"));
  if (at < 0) return;
  const stops = tokens.map((token, i) => /[.。]/.test(token.textContent) ? i : -1);
  const before = stops.filter((i) => i >= 0 && i < at - 1).at(-1) ?? -1;
  const after = stops.find((i) => i >= at) ?? tokens.length - 2;
  const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tokens.length - 1,
    ArrowUp: before + 1, ArrowDown: after + 1 };
  if (event.key in moves) focusToken(moves[event.key]);
  else if (event.key === "Enter" || event.key === " ") pick(at);
  else if (event.key === "Escape") pick(null);
  else return;
  event.preventDefault();
}

// Show what else a token could have been; null: what comes next.
function pick(i) {
  const group = i === null ? null : state.tokens[i];
  state.place = !group || group.from === 0 ? null : group.from;
  if (i !== null) focusToken(i);
  drawStory();
  show().then(() => {
    if (state.place === null) return;
    $("spoken").textContent = `${$("next-head").textContent}. ${$("place").textContent}`;
    bringNear($("next"), "nearest");
  });
}

// On a narrow screen all stands below each other: show what the reader waits for.
function bringNear(what, block) {
  if (!matchMedia("(max-width: 60rem)").matches) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  what.scrollIntoView({ block, behavior: still ? "auto" : "smooth" });
}

// --------------------------------------------------------------------------- what comes at a place

// The list and the attention, while nothing else is shown.
async function show() {
  state.look?.abort();
  const look = state.look = new AbortController();
  if (!state.writing) return;
  try { await showNext(look.signal); } catch (error) { explain(error); }
}

async function showNext(signal) {
  const { writing, world } = state, place = state.place ?? writing.ids.length;
  drawAttention(place);
  const settings = readSettings();
  if (!settings) return;
  if (!writing.scores[place - 1]) { drawRows([], place, "", settings.how); return; }
  const options = new Options(writing, place, world, settings.how);
  const rows = await options.find(signal);
  if (rows && !signal.aborted) drawRows(rows, place, options.kind, settings.how);
}

// `kind`: of the truth, as `Options` has it.
function drawRows(rows, place, kind, how) {
  const { writing } = state, chosen = state.place !== null, known = kind !== "";
  $("next-head").textContent = say(chosen ? "instead" : "next");
  $("next").hidden = !rows.length;
  $("next").classList.toggle("same", isPlain(how));
  $("next").classList.toggle("unknown", !known);
  const before = writing.textBefore(place)[0];
  const end = before.slice(-24).replace(/^\S*\s/, "");
  const where = before ? say("after", { text: end }) : say("atStart");
  const over = place >= writing.ids.length && (writing.over || writing.full);
  const done = writing.over ? say("ended") : say("full");
  $("place").textContent = over ? done : `${where} ${say("choose")}`;
  const best = (row) => Math.max(row.model, row.truth, row.drawn);
  rows.sort((a, b) => best(b) - best(a));
  const drawn = isPlain(how) ? "" : ` ${say("drawnHelp")}`;
  $("agree").textContent = over ? "" : aboutTruth(rows, kind) + drawn;
  const shown = rows.slice(0, SHOWN), own = rows.find((row) => isWritten(row, place));
  if (own && !shown.includes(own)) shown[SHOWN - 1] = own;
  fillRows(shown, restOf(rows, shown, known), place, known);
}

function aboutTruth(rows, kind) {
  if (!kind) return say(state.world ? "noTruth" : "noWorld");
  const inside = kind === "words" ? `${say("inside")} ` : "";
  return inside + say("agree", { share: percent(overlap(rows)) });
}

function restOf(rows, shown, known) {
  const sum = (name) => Math.max(0, 1 - shown.reduce((total, row) => total + row[name], 0));
  return { rest: true, model: sum("model"), drawn: sum("drawn"), truth: known ? sum("truth") : 0 };
}

// Whether a row is what stands at the place.
function isWritten({ ids }, place) {
  return Boolean(ids) && ids.every((id, i) => state.writing.ids[place + i] === id);
}

// The rows stay where they are and change what they say, so that no focus is lost.
function fillRows(shown, rest, place, known) {
  const body = $("next").tBodies[0], rows = [...shown, rest];
  const left = Math.max(rest.model, rest.drawn, rest.truth) > LEAST;
  const top = Math.max(...shown.flatMap(({ model, drawn, truth }) => [model, drawn, truth]));
  while (body.rows.length < SHOWN + 1) body.append(newRow());
  for (const [i, line] of [...body.rows].entries()) {
    const row = i === SHOWN ? rest : i < shown.length ? rows[i] : null;
    line.hidden = !row || (row.rest && !left);
    if (row) fillRow(line, row, place, { known, top });
  }
}

function newRow() {
  const line = document.createElement("tr");
  line.innerHTML = '<th scope="row"><button type="button"><span></span><i></i></button></th>' +
    '<td class="guess"><span></span><b></b></td><td class="drawn"><span></span><b></b></td>' +
    '<td class="true"><span></span><b></b></td>';
  line.querySelector("button").addEventListener("click", () => take(line.row, line.place));
  return line;
}

// `top`: the share whose bar is as long as it can be.
function fillRow(line, row, place, { known, top }) {
  const button = line.querySelector("button"), written = isWritten(row, place);
  Object.assign(line, { row, place });
  button.disabled = Boolean(row.rest);
  line.classList.toggle("written", written);
  button.title = written ? say("written") : "";
  const text = row.rest ? say("others") : row.end ? say("endToken") : visible(row.text);
  button.children[0].textContent = text;
  button.children[1].textContent = row.more ?? "";
  for (const [i, name] of ["model", "drawn", "truth"].entries()) {
    const [share, bar] = line.cells[i + 1].children;
    share.textContent = name === "truth" && !known ? "" : percent(row[name]);
    bar.style.width = row.rest ? 0 : `${100 * row[name] / top}%`;
  }
}

// -------------------------------------------------------------------------------------- attention

function fillHeads({ n_layer, n_head }) {
  for (const [id, n] of [["layer", n_layer], ["head", n_head]]) {
    const before = $(id).value, held = Math.min(before === "" ? FIRST_LOOK[id] : before, n - 1);
    $(id).replaceChildren(...Array.from({ length: n }, (_, i) => new Option(i, i)));
    $(id).value = held;
  }
  $("attention").hidden = false;
}

// A bar under each token, as high as what one head takes from it to choose the token at the place.
function drawAttention(place) {
  const { writing, tokens, entry } = state;
  const query = `?model=${encodeURIComponent(entry.name)}`;
  $("inside").href = `inside.html${query}#${encodeURIComponent(writing.text)}`;
  const [layer, head] = ["layer", "head"].map((id) => Number($(id).value));
  const upTo = Math.min(place, writing.session.length);   // less where the last was not read
  const row = writing.attention(upTo, layer, head);
  const shares = tokens.map(({ from, to }) => row.slice(from, to).reduce((a, b) => a + b, 0));
  const top = Math.max(...shares);
  for (const [i, token] of [...$("story").children].entries()) {
    token.style.setProperty("--share", ((shares[i] ?? 0) / top).toFixed(3));
  }
  const order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]).slice(0, 3);
  const most = order.filter((i) => shares[i] > 0.01).map((i) =>
    `${quote(tokens[i].text || say("start"))} (${percent(shares[i])})`).join(say("and"));
  const next = tokens.find(({ from }) => from === upTo);
  const values = { head, layer, most, next: quote(next?.text || say("end")) };
  $("looks").textContent = say(next ? "looks" : "looksEnd", values);
}

// ------------------------------------------------------------------------------------------ start

function listen() {
  $("play").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    write();
  });
  $("another").addEventListener("click", () => {
    const seed = Number($("seed").value), { low, high } = SETTINGS.seed;
    const goesOn = Number.isInteger(seed) && seed >= low && seed < high;
    $("seed").value = goesOn ? seed + 1 : low;
    write();
  });
  $("step").addEventListener("click", step);
  $("on").addEventListener("click", () => { goOn(); $("stop").focus(); });
  $("stop").addEventListener("click", stop);
  $("model").addEventListener("change", () =>
    choose(state.models.find(({ name }) => name === $("model").value)));
  $("story").addEventListener("keydown", onKey);
  $("story").addEventListener("click", (event) => {
    const at = [...$("story").children].indexOf(event.target.closest(".token"));
    if (at >= 0) pick(at);
  });
  for (const id of ["layer", "head"]) $(id).addEventListener("change", () => show());
  page.querySelector(".settings").addEventListener("input", (event) => {
    const { id, value, dataset } = event.target;
    const twin = dataset.of ? $(dataset.of) : page.querySelector(`[data-of="${id}"]`);
    if (twin) twin.value = value;
    if (!state.job && readSettings() && state.writing) show();
  });
}

async function start() {
  makeSettings();
  speakAll();
  listen();
  await offer();
}

// Offer the models; Write tries it again where that was not possible.
async function offer() {
  try { state.models = writers(await readModels()); } catch (error) { return explain(error); }
  choose(offerModels($("model"), state.models));
}

start();
