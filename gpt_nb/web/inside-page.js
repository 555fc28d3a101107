// The page: a story is read, and what goes on inside is shown; two stories are compared.
import { probabilities } from "./engine.js";
import { Inside, Pair, likeliest } from "./inside.js";
import { AttentionMap, Grid, drawMap, habit } from "./inside-map.js";
import { PAIRS, STORIES, TEXT, line } from "./inside-text.js";
import { offerModels, openOnce, readModels, short, speak, visible, writers } from "./shelf.js";
import { pauses, turn } from "./turn.js";

const page = document.querySelector(".playground");
const $ = (id) => document.getElementById(id);
const FIRST_LOOK = { layer: 2, head: 0 };      // counted from 0, as in the chapters
const LISTED = 5;                      // guesses in a detail
const state = { models: [], entry: null, lang: "en", opened: new Map(), job: null, read: null,
  at: 0, pair: null };
const say = (name, values) => line(state.lang, name, values);

// ----------------------------------------------------------------------------- words of the page

function tell(text, { wrong = false, where = "say" } = {}) {
  $(where).textContent = text;
  $(where).className = wrong ? "wrong" : "";
}

function speakAll() {
  speak(page, state.lang, TEXT[state.lang]);
  for (const id of ["story-text", "text-a", "text-b"]) $(id).placeholder = say("storyPlaceholder");
}

const percent = (share) => say("percent", { p: Math.round(100 * share) || 0 });
const quote = (text) => say("quote", { text });

// A token as it can be seen, alone: its text, or its bytes where it is no whole character.
function guessOf(tok, id) {
  if (id === tok.endId) return "∎";
  if (typeof tok.pieces[id] !== "string") return `#${id}`;       // a number that is no token
  const text = tok.decode([id]);
  if (!text.includes("\ufffd")) return visible(text);
  return Array.from(tok.bytes(id), (b) => b.toString(16).toUpperCase().padStart(2, "0")).join("");
}

// Each token of a text: {text, label}. Tokens that are whole characters only together show them at
// the first, and say which part each is.
function seen(tok, ids) {
  const found = [{ text: "", label: "▸" }];
  for (let from = 1, to = 2; from < ids.length; from = to, to = from + 1) {
    const cut = () => tok.decode(ids.slice(from, to)).includes("\ufffd");
    while (cut() && to < ids.length && to - from < 8) to++;
    const text = tok.decode(ids.slice(from, to)), n = to - from;
    for (let i = 0; i < n; i++) {
      found.push({ text: i ? "·" : text, label: n > 1 ? `${visible(text)} ${i + 1}/${n}`
        : guessOf(tok, ids[from]) });
    }
  }
  return found;
}

const named = (label) => label === "▸" ? say("start") : quote(label);
const layersDone = (n) => say(n === 0 ? "layers0" : n === 1 ? "layers1" : "layersN", { n: n - 1 });

// ---------------------------------------------------------------------------------------- opening

const open = (entry, signal) => openOnce(state.opened, entry, signal, say);

const keyOf = ({ lang, level }) => `${lang}-${level}`;

function choose(entry) {
  state.job?.abort();
  const known = Object.values(STORIES), own = STORIES[keyOf(entry)] ?? "";
  Object.assign(state, { entry, lang: entry.lang, read: null, pair: null });
  speakAll();
  $("about").textContent = say("about", { n: entry.parameters.toLocaleString("en"),
    size: `${(entry.bytes / 1e6).toFixed(1)} MB` });
  $("another").hidden = !entry.world;
  if (!$("story-text").value || known.includes($("story-text").value)) $("story-text").value = own;
  makePairs();
  for (const id of ["heads-part", "lens-part", "patched"]) $(id).hidden = true;
  for (const where of ["say", "patch-say"]) tell("", { where });
}

function makePairs() {
  const pairs = PAIRS[keyOf(state.entry)] ?? [], fill = ([, text, a, b]) => {
    $("text-a").value = text.replace("@", a), $("text-b").value = text.replace("@", b);
  };
  $("pairs").textContent = pairs.length ? `${say("pairs")} ` : "";
  for (const pair of pairs) {
    const button = document.createElement("button");
    button.type = "button", button.className = "example", button.textContent = say(pair[0]);
    button.addEventListener("click", () => { fill(pair); compare(); });
    $("pairs").append(button, " ");
  }
  $("text-a").value = $("text-b").value = "";
  if (pairs.length) fill(pairs[0]);
}

// One piece of work at a time: what runs is stopped first. `where`: the line it speaks in.
async function work(where, task) {
  state.job?.abort();
  const job = state.job = new AbortController();
  if (!state.entry && !await offer()) return;
  $("stop").disabled = false;
  page.setAttribute("aria-busy", "true");
  try {
    tell(say("loading"), { where });
    await task(await open(state.entry, job.signal), job.signal);
  } catch (error) {
    if (error.name !== "AbortError") tell(explain(error), { where, wrong: true });
    else if (state.job === job) tell(say("stoppedEarly"), { where });
  }
  if (state.job !== job) return;
  state.job = null;
  $("stop").disabled = true;
  page.removeAttribute("aria-busy");
}

function explain(error) {
  const known = { damaged: "cut", missing: "missing", version: "broken", format: "broken",
    same: "same", empty: "empty" };
  const { code, lengths: [a, b] = [], n, context } = error;
  if (code === "lengths") return say("lengths", { a, b });
  if (code === "long") return say("tooLong", { n, context });
  if (code === "unseen") return say("unseen", { what: quote(visible(error.what)) });
  return say(known[code] ?? "failed", { what: short(error.message, 200) });
}

// Ids of a text with the token that begins it; an Error with a code where it cannot be read.
function idsOf({ tok, config }, text) {
  const wrong = (code, more) => Object.assign(new Error(code), { code, ...more });
  if (!text.trim()) throw wrong("empty");
  const long = (n) => wrong("long", { n: n.toLocaleString("en"), context: config.context });
  if (text.length > 20 * config.context) throw long(text.length);
  let ids;
  try { ids = [config.bos_token_id ?? tok.endId, ...tok.encode(text)]; } catch (error) {
    const cannot = (c) => { try { tok.encode(c); } catch { return true; } return false; };
    throw Object.assign(error, { what: Array.from(text).find(cannot) ?? text });
  }
  if (ids.length > config.context) throw long(ids.length);
  return ids;
}

// ---------------------------------------------------------------------------------- reading a text

function look() {
  work("say", async ({ model }, signal) => {
    const { tok } = model, ids = idsOf(model, $("story-text").value), inside = new Inside(model);
    const pause = pauses(signal);
    tell(say("reading"));
    await turn();
    for (const id of ids) { inside.feed(id); await pause(); }
    const tokens = seen(tok, ids), labels = tokens.map(({ label }) => label), heads = [];
    const { n_layer, n_head } = model.config;
    for (let l = 0; l < n_layer; l++) {
      heads.push([]);
      for (let h = 0; h < n_head; h++) { heads[l].push(inside.attention(l, h)); await pause(); }
    }
    state.read = { model, inside, ids, tokens, labels, heads };
    state.at = ids.length - 1;
    for (const id of ["heads-part", "lens-part"]) $(id).hidden = false;
    fillHeads(model.config);
    drawStory();
    await drawAll(pause);
    showHead();
    await drawLens(pause);
    const odd = tok.unknown != null && ids.includes(tok.unknown) ? ` ${say("unknown")}` : "";
    tell(say("read", { n: ids.length - 1 }) + odd);
  });
}

function another() {
  work("say", async ({ world }) => { $("story-text").value = world.sample(Math.random); })
    .then(() => state.entry && look());
}

// ------------------------------------------------------------------------------------- attention

function fillHeads({ n_layer, n_head }) {
  for (const [id, n] of [["layer", n_layer], ["head", n_head]]) {
    const before = $(id).value, held = Math.min(before === "" ? FIRST_LOOK[id] : before, n - 1);
    $(id).replaceChildren(...Array.from({ length: n }, (_, i) => new Option(i, i)));
    $(id).value = held;
  }
}

const chosen = () => [Number($("layer").value), Number($("head").value)];

function drawStory() {
  $("story").replaceChildren(...state.read.tokens.map(({ text, label }, t) => {
    const token = document.createElement("span");
    token.className = t ? "token" : "token start";
    token.setAttribute("role", "button");
    token.tabIndex = t === state.at ? 0 : -1;
    token.ariaPressed = String(t === state.at);
    token.textContent = text;
    token.setAttribute("aria-label", t ? label : say("start"));
    return token;
  }));
}

// The token that looks: everywhere on the page.
function pickToken(t, { focus = false, column = null } = {}) {
  const tokens = [...$("story").children], before = tokens[state.at];
  before.tabIndex = -1, before.ariaPressed = "false";
  state.at = Math.max(0, Math.min(t, tokens.length - 1));
  const token = tokens[state.at];
  token.tabIndex = 0, token.ariaPressed = "true";
  if (focus) token.focus();
  drawBars(column);
  lens.pick(state.at, lens.column, { focus: false });
}

function drawBars(column) {
  const { read: { labels, heads }, at } = state, [layer, head] = chosen();
  const row = heads[layer][head][at], top = Math.max(...row);
  for (const [i, token] of [...$("story").children].entries()) {
    token.style.setProperty("--share", ((row[i] ?? 0) / top).toFixed(3));
  }
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a]).slice(0, 3);
  const most = order.filter((s) => row[s] > 0.01)
    .map((s) => `${named(labels[s])} (${percent(row[s])})`).join(say("and"));
  const token = named(labels[at]), place = column ?? order[0];
  const cell = column === null ? "" :
    ` ${say("cell", { token, share: percent(row[column]), from: named(labels[column]) })}`;
  $("looks").textContent = say("looks", { token, head, layer, most }) + cell;
  map.select(at, place);
}

const map = new AttentionMap($("map"), (row, column) => pickToken(row, { column }));

async function drawAll(pause) {
  const { heads } = state.read, box = $("all");
  box.style.setProperty("--heads", heads[0].length);
  box.replaceChildren();
  for (const [l, some] of heads.entries()) {
    for (const [h, rows] of some.entries()) {
      const button = document.createElement("button");
      button.type = "button";
      const values = { layer: l, head: h, ...shares(habit(rows)) };
      button.ariaLabel = button.title = say("oneHead", values);
      button.append(drawMap(document.createElement("canvas"), rows));
      button.addEventListener("click", () => {
        $("layer").value = l, $("head").value = h;
        showHead();
      });
      box.append(button);
      await pause();
    }
  }
}

const shares = (of) =>
  Object.fromEntries(Object.entries(of).map(([name, share]) => [name, percent(share)]));

function showHead() {
  const { labels, heads } = state.read, [layer, head] = chosen();
  const rows = heads[layer][head];
  const words = say("habit", { layer, head, ...shares(habit(rows)) });
  $("habit").textContent = words;
  for (const [i, button] of [...$("all").children].entries()) {
    button.ariaPressed = String(i === layer * heads[0].length + head);
  }
  map.show(labels, rows, say("mapAlt", { n: rows.length, habit: words }));
  drawBars(null);
}

// ------------------------------------------------------------------------------------------- lens

const lens = new Grid($("lens"), (row, column) => showLens(row, column));

const columnsOf = ({ n_layer }) => [say("none"),
  ...Array.from({ length: n_layer }, (_, l) => say("layerN", { n: l }))];

async function drawLens(pause) {
  const { model: { tok, config }, inside, ids, labels } = state.read;
  lens.show(say("tokenHead"), columnsOf(config), labels);
  for (let t = 0; t < ids.length; t++) {
    for (let l = 0; l <= config.n_layer; l++) {
      const [[id, share]] = likeliest(inside.lens(l, t)), hit = id === ids[t + 1];
      const text = hit ? `${labels[t + 1]} ✓` : guessOf(tok, id);
      lens.set(t, l, { text, more: percent(share), share, name: hit ? "hit" : "" });
      await pause();
    }
  }
  lens.pick(state.at, config.n_layer, { focus: false });
}

function bars(tok, scores) {
  const list = document.createElement("ol"), best = likeliest(scores, LISTED);
  for (const [id, share] of best) {
    const item = document.createElement("li"), word = document.createElement("span");
    word.textContent = guessOf(tok, id);
    const bar = document.createElement("b");
    bar.style.setProperty("--part", share.toFixed(4));
    item.append(word, percent(share), bar);
    list.append(item);
  }
  return list;
}

function paragraph(text, name = "") {
  return Object.assign(document.createElement("p"), { textContent: text, className: name });
}

function showLens(t, l) {
  const { model: { tok, config }, inside, ids, labels } = state.read, next = ids[t + 1];
  if (t !== state.at) pickToken(t);
  const parts = [paragraph(say("lensCaption", { token: named(labels[t]), layers: layersDone(l) })),
    bars(tok, inside.lens(l, t))];
  if (next !== undefined) {
    const all = Array.from({ length: config.n_layer + 1 }, (_, k) =>
      percent(probabilities(inside.lens(k, t))[next]));
    const token = quote(labels[t + 1]);
    parts.push(paragraph(say("own", { token, shares: all.join(", ") })));
  }
  $("lens-detail").replaceChildren(...parts);
}

// --------------------------------------------------------------------------------------- patching

const patch = new Grid($("patch"), (row, column) => showPatch(row, column));

function compare() {
  work("patch-say", async ({ model }, signal) => {
    const { tok } = model, [a, b] = ["text-a", "text-b"].map((id) => idsOf(model, $(id).value));
    const pause = pauses(signal), where = "patch-say";
    $("patched").hidden = true;
    const pair = new Pair(model, a, b);
    tell(say("reading"), { where });
    await turn();
    try { for (const _ of pair.read()) await pause(); } catch (error) {
      if (error.code !== "answer") throw error;
      const both = quote(guessOf(tok, pair.answers[0]));
      tell(say("answer", { a: both }), { where, wrong: true });
      return;
    }
    const [ofA, ofB] = [a, b].map((ids) => seen(tok, ids).map(({ label }) => label));
    const both = ofA.map((label, t) => a[t] === b[t] ? label : `${label} | ${ofB[t]}`);
    const from = pair.at[0], labels = both.slice(from);
    state.pair = { model, pair, from, labels };
    patch.show(say("tokenHead"), columnsOf(model.config), labels);
    $("patched").hidden = false;
    $("patch-detail").replaceChildren(), $("carriers").replaceChildren();
    await putAll(pause);
  });
}

// First where it is likely to show: the tokens that differ and the next, the last, then the others.
function orderOf({ at, idsA }, from) {
  const last = idsA.length - 1, early = [...at, ...at.map((t) => t + 1), last];
  const rest = Array.from({ length: idsA.length - from }, (_, i) => from + i);
  return [...new Set([...early, ...rest])].filter((t) => t <= last);
}

async function putAll(pause) {
  const { pair, from, labels, model: { tok, config } } = state.pair, where = "patch-say";
  const order = orderOf(pair, from), columns = config.n_layer + 1, all = order.length * columns;
  const best = Array.from({ length: columns }, () => ({ share: -Infinity }));
  for (const [i, t] of order.entries()) {
    for (let l = 0; l < columns; l++) {
      const { share } = pair.put(l, t);
      patch.set(t - from, l, { text: String(Math.round(100 * share) || 0), share });
      if (share > best[l].share) best[l] = { share, t };
      await pause();
    }
    tell(say("working", { n: (i + 1) * columns, all }), { where });
    if (i === 0) patch.pick(order[0] - from, 0, { focus: false });
  }
  const [a, b] = pair.answers.map((id) => quote(guessOf(tok, id)));
  tell(say("patched", { a, b, all }), { where });
  $("carriers").replaceChildren(...best.map(({ share, t }, n) => {
    const values = { n: n - 1, token: quote(labels[t - from]), share: percent(share) };
    return Object.assign(document.createElement("li"),
      { textContent: say(n ? "carrier" : "carrier0", values) });
  }));
}

function showPatch(row, l) {
  const { pair, from, labels, model: { tok, config } } = state.pair, t = row + from;
  const { scores, share } = pair.put(l, t), last = pair.idsA.length - 1;
  const answers = (inside) => {
    const p = probabilities(inside.lens(config.n_layer, last));
    const each = pair.answers.map((id) => `${quote(guessOf(tok, id))} ${percent(p[id])}`);
    return each.join(say("and"));
  };
  $("patch-detail").replaceChildren(
    paragraph(say("putIn", { token: quote(labels[row]), layers: layersDone(l),
      share: percent(share) })),
    bars(tok, scores),
    paragraph(say("without", { list: answers(pair.b), other: answers(pair.a) }), "small"));
}

// ------------------------------------------------------------------------------------------ start

function onKey(event) {
  const n = $("story").children.length, { at } = state;
  const moves = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1,
    Home: 0, End: n - 1, Enter: at, " ": at };
  if (!(event.key in moves)) return;
  event.preventDefault();
  pickToken(moves[event.key], { focus: true });
}

function listen() {
  $("read").addEventListener("submit", (event) => { event.preventDefault(); look(); });
  $("compare").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
  for (const [id, act] of [["story-text", look], ["text-a", compare], ["text-b", compare]]) {
    $(id).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      act();
    });
  }
  $("another").addEventListener("click", another);
  $("stop").addEventListener("click", () => state.job?.abort());
  $("take").addEventListener("click", () => {
    $("text-a").value = $("text-b").value = $("story-text").value;
    $("text-b").focus();
  });
  $("model").addEventListener("change", () =>
    choose(state.models.find(({ name }) => name === $("model").value)));
  $("story").addEventListener("click", (event) => {
    const t = [...$("story").children].indexOf(event.target.closest(".token"));
    if (t >= 0) pickToken(t, { focus: true });
  });
  $("story").addEventListener("keydown", onKey);
  for (const id of ["layer", "head"]) $(id).addEventListener("change", showHead);
}

// The models that there are; false where the list cannot be read.
async function offer() {
  try { state.models = writers(await readModels()); } catch (error) {
    tell(explain(error), { wrong: true });
    return false;
  }
  choose(offerModels($("model"), state.models));
  return true;
}

async function start() {
  speakAll();
  listen();
  if (!await offer()) return;
  let given = "";
  try { given = decodeURIComponent(location.hash.slice(1)); } catch { /* no text */ }
  if (!given) return;
  $("story-text").value = given;       // the story of the playground
  look();
}

start();
