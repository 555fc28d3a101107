// The page in which a bigram and a GPT learn: buttons, the picture, the stories.

import { seeded } from "./engine.js";
import { drawChart } from "./training-chart.js";
import { Run, SETTINGS, openStories, write } from "./training-run.js";
import { TEXT } from "./training-text.js";
import { turn } from "./turn.js";

const SLICE = 6;   // milliseconds of work at a time; between them the page does other things
const RATES = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 10,
  100, 1e4, 1e8];
const page = document.querySelector(".training"), web = page.dataset.web;
const part = (id) => document.getElementById(id);
let lang = "en", run = null, asked = 0;
// Every start, pause and reset takes a new number; work that holds an old one stops.
let turnOf = 0;

// ---- words ------------------------------------------------------------------------------------

const text = (key, values = {}) =>
  TEXT[lang][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const grouped = (n) => Math.round(n).toLocaleString(lang === "zh" ? "zh-CN" : "en");
const nats = (loss) =>
  !Number.isFinite(loss) ? "–" : loss < 1000 ? loss.toFixed(2) : grouped(loss);

function say(key, values, wrong = false) {
  part("say").className = wrong ? "wrong" : "";
  part("say").textContent = key ? text(key, values) : "";
}

function speak(chosen) {
  lang = chosen;
  page.lang = lang === "zh" ? "zh-CN" : "en";
  for (const place of document.querySelectorAll("[data-text]")) {
    place.textContent = text(place.dataset.text, SETTINGS);
  }
  document.querySelector("h1").firstChild.textContent = text("title");   // a link may follow it
  if (document.body.classList.contains("alone")) {
    document.documentElement.lang = page.lang;
    document.title = text("title");
  }
}

// ---- work in slices ---------------------------------------------------------------------------

// Take pieces of the work for one slice; returns what `next` gave last.
function slice(work) {
  const end = performance.now() + SLICE;
  let piece;
  do piece = work.next(); while (!piece.done && performance.now() < end);
  return piece;
}

async function train(mine) {
  let shown = 0;
  while (mine === turnOf && !run.over) {
    const start = performance.now();
    slice(run.work);
    const now = performance.now();
    run.records.at(-1).seconds += (now - start) / 1000;
    await turn();
    if (mine !== turnOf || now - shown < 150) continue;
    shown = now;
    show();
    await turn();
  }
  if (mine === turnOf) turnOf++;
  show();
}

// ---- what the reader asks for -----------------------------------------------------------------

const running = () => run !== null && run.going === turnOf;

async function fetchStories(mine) {
  say("loading");
  const answer = await fetch(`${web}training-${lang}.json`).catch(() => null);
  if (!answer?.ok) return mine === turnOf && say("missing", {}, true);
  const stories = await answer.json().then(openStories).catch(() => null);
  if (mine !== turnOf) return null;
  if (!stories) say("damaged", {}, true);
  return stories;
}

async function start() {
  const seed = part("seed");
  if (!seed.checkValidity() || seed.value === "") return say("badSeed", {}, true);
  clear();
  const mine = turnOf, stories = await fetchStories(mine);
  if (!stories || mine !== turnOf) return;
  run = new Run(stories, Number(seed.value), hear);
  setRate();
  go();
}

function go() {
  run.going = ++turnOf;
  show();
  train(run.going).catch(fail);
}

function pause() {
  turnOf++;
  say("paused");
  show();
}

function clear() {
  turnOf++;
  run = null;
  part("written").replaceChildren();
  say();
  show();
}

function fail(error) {
  turnOf++;
  if (run) run.over = true;
  say("failed", { what: error.message }, true);
  show();
}

function press() {
  if (running()) return pause();
  if (!run || run.over) return start().catch(fail);
  say("goesOn");
  go();
}

// The slider goes through RATES.
function setRate() {
  const rate = RATES[part("rate").value];
  const said = rate.toLocaleString("en", { maximumFractionDigits: 4 });
  part("rate-now").textContent = said;
  part("rate").setAttribute("aria-valuetext", said);
  if (run) run.rate = rate;
}

async function writeNow() {
  const mine = run, record = run.records.at(-1), model = run.models[record.kind];
  const work = write(model, seeded(run.seed + 1000 + ++asked));
  let piece;
  while (!(piece = slice(work)).done) await turn();
  if (run !== mine) return;
  addStory("now", record, { update: record.update, ...run.judged(piece.value) });
}

// ---- what it hears from the run ---------------------------------------------------------------

function hear(what, record, look) {
  const { bigram: counted, floor } = run.stories, { update, now, best } = record;
  const loss = nats(now);
  if (what === "start" && record.kind === "bigram") say("startBigram");
  if (what === "start" && record.kind === "gpt") {
    const reached = run.records[0].looks.at(-1).loss;
    const key = reached < counted + 0.05 ? "startGpt" : "startGptPoor";
    say(key, { loss: nats(reached), counted: nats(counted) });
  }
  if (what === "look") addStory("look", record, look);
  if (what === "beats") say("beats", { update });
  if (what === "rising") say("rising", { loss, best: nats(best) }, true);
  if (what === "recovered") say("recovered", { loss });
  if (what === "nan") say("nan", { update }, true);
  if (what === "end" && record.kind === "gpt") {
    const reached = record.looks.at(-1).loss;
    say("end", { update, loss: nats(reached), above: nats(reached - floor) });
  }
}

// ---- what it shows ----------------------------------------------------------------------------

function element(tag, content, name = "") {
  const made = document.createElement(tag);
  made.textContent = content;
  made.className = name;
  return made;
}

function addStory(key, { kind }, { update, loss, text: story, reasons, shares }) {
  const item = element("li", "", kind), percent = (share) => Math.round(100 * share);
  const verdict = reasons.length ? reasons[0] : text("holds");
  item.append(
    element("h3", text(key, { model: text(kind), update, loss: nats(loss) })),
    element("p", story || text("silent")), element("p", `→ ${verdict}`, "verdict"));
  if (shares) {
    item.append(element("p", text("shares", {
      n: SETTINGS.stories, sentences: percent(shares.sentences), facts: percent(shares.facts),
      whole: Math.round(shares.story * SETTINGS.stories),
    }), "small"));
  }
  part("written").append(item);
}

function show() {
  const broken = run?.broken, goes = running();
  part("train").disabled = false;
  part("train").textContent = text(goes ? "pause" : !run ? "train" : run.over ? "again" : "on");
  part("reset").disabled = !run;
  part("story").disabled = !run || !run.records.length || broken;
  part("readout").textContent = run?.records.length ? readout(run.records.at(-1)) : "";
  drawChart(part("chart"), run?.records ?? [], run ? lines() : [], { updates: text("updates") });
}

function readout({ kind, update, tokens, seconds, now }) {
  const { bigram, floor } = run.stories;
  return text("readout", {
    model: text(kind), update, all: run.settings.updates[kind], loss: nats(now),
    tokens: grouped(tokens), speed: grouped(tokens / Math.max(seconds, 0.01)),
    counted: nats(bigram), floor: nats(floor),
  });
}

function lines() {
  const { words, bigram, floor } = run.stories;
  const losses = { blind: Math.log(words.length), counted: bigram, floor };
  return Object.entries(losses).map(([name, loss]) =>
    ({ name, loss, label: text(name, { loss: nats(loss) }) }));
}

// ---- begin ------------------------------------------------------------------------------------

part("train").addEventListener("click", press);
part("reset").addEventListener("click", () => {
  part("rate").value = RATES.indexOf(SETTINGS.rate);
  clear();
  setRate();
});
part("story").addEventListener("click", () => writeNow().catch(fail));
part("rate").addEventListener("input", setRate);
part("language").addEventListener("change", (event) => {
  speak(event.target.value);
  clear();
});
new ResizeObserver(show).observe(part("chart"));

const wanted = new URLSearchParams(location.search).get("lang") ?? page.dataset.lang ??
  document.documentElement.lang;
part("language").value = wanted.startsWith("zh") ? "zh" : "en";
speak(part("language").value);
setRate();
show();
