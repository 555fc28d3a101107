// The page: a story stands at the head, a reader asks, and the answer comes token by token.
import { offerModels, openOnce, readJSON, readModels, short, speak, visible } from "./shelf.js";
import { CHATML, Chat } from "./talk.js";
import { judge, suggestions, truthOf } from "./talk-facts.js";
import { TEXT, line } from "./talk-text.js";
import { pauses, turn } from "./turn.js";
import { World } from "./world.js";

const page = document.querySelector(".playground");
const $ = (id) => document.getElementById(id);
const LEVEL = 1;                       // of the stories: the model was taught these
const state = { models: [], entry: null, lang: "en", opened: new Map(), worlds: new Map(),
  told: "", asked: [], chat: null, said: [], job: null };
const say = (name, values) => line(state.lang, name, values);

// ----------------------------------------------------------------------------- words of the page

function tell(text, wrong = false) {
  $("say").textContent = text;
  $("say").className = wrong ? "wrong" : "";
}

function speakAll() {
  speak(page, state.lang, TEXT[state.lang]);
  $("language").value = state.lang;
  $("system").placeholder = say("systemPlaceholder");
  $("question").placeholder = say("questionPlaceholder");
  $("talk").firstChild.dataset.waiting = say("waiting");
  if (state.entry) showAbout();
}

function showAbout() {
  const { parameters, bytes } = state.entry;
  $("about").textContent = say("about", { n: parameters.toLocaleString("en"),
    size: `${(bytes / 1e6).toFixed(1)} MB` });
}

// 0.8731 as 87.3 %.
function percent(share) {
  const p = 100 * share;
  return say("percent", { p: p < 0.1 ? "<0.1" : p > 99.9 ? ">99.9" : p.toFixed(1) });
}

const element = (kind, className = "", textContent = "") =>
  Object.assign(document.createElement(kind), { className, textContent });

function explain({ code, message, values, what }) {
  const known = { damaged: "cut", missing: "missing", version: "broken", format: "broken",
    nothing: "nothing", mute: "mute", template: "template" };
  const numbers = Object.entries(values ?? {}).map(([name, n]) => [name, n.toLocaleString("en")]);
  if (code === "long") return say("long", Object.fromEntries(numbers));
  if (code === "unseen") return say("unseen", { what: visible(what ?? message) });
  return say(known[code] ?? "failed", { what: short(message, 200) });
}

// What was typed, without the control characters that keys and clipboards may leave in it.
const typed = (id) => $(id).value.replace(/[^\P{Cc}\n\t]/gu, "").trim();

// ------------------------------------------------------------------------------------------- work

// One piece of work at a time: what runs is stopped first.
async function work(task) {
  state.job?.abort();
  const job = state.job = new AbortController();
  $("stop").disabled = false;
  $("send").ariaDisabled = "true";
  page.setAttribute("aria-busy", "true");
  try {
    if (state.entry || await offer()) await task(job.signal);
  } catch (error) {
    if (error.name !== "AbortError") tell(explain(error), true);
    else if (state.job === job) tell(say("stoppedEarly"));
  }
  if (state.job === job) rest();
}

function rest() {
  state.job?.abort();
  state.job = null;
  if (document.activeElement === $("stop")) $("question").focus();
  $("stop").disabled = true;
  $("send").ariaDisabled = null;
  page.removeAttribute("aria-busy");
}

// ------------------------------------------------------------------------------------------ texts

async function worldOf(lang, signal) {
  if (!state.worlds.has(lang)) {
    state.worlds.set(lang, new World(await readJSON(`world-${lang}.json`, signal), LEVEL));
  }
  return state.worlds.get(lang);
}

// A story of the world, in the language of the page.
function another() {
  return work(async (signal) => {
    const world = await worldOf(state.lang, signal), old = state.chat;
    $("system").value = state.told = world.sample(Math.random);
    await newText(signal);
    tell(old ? say("newTalk") : "");
  });
}

// The text at the head is another: the talk begins anew, and other questions fit.
async function newText(signal) {
  clear();
  const text = typed("system"), lang = /[\u3400-\u9fff]/.test(text) ? "zh" : "en";
  const found = text && suggestions(await worldOf(lang, signal), text, Math.random);
  state.asked = found ? [...found.can, ...found.cannot] : [];
  $("suggestions").hidden = !found;
  for (const id of ["can", "cannot"]) {
    $(id).replaceChildren(...(found?.[id] ?? []).flatMap(({ text }) => [example(text), " "]));
    $(id).lang = lang === "zh" ? "zh-CN" : "en";
  }
}

function example(text) {
  const button = element("button", "example", text);
  button.type = "button";
  button.addEventListener("click", () => {
    if (state.job) return;
    $("question").value = text;
    ask();
  });
  return button;
}

function clear() {
  Object.assign(state, { chat: null, said: [] });
  $("talk").firstChild.replaceChildren();
}

function reset() {
  rest();
  clear();
  tell(say("newTalk"));
}

// ------------------------------------------------------------------------------------------- talk

function ask() {
  if (state.job) return;
  const question = typed("question");
  work(async (signal) => {
    const { model } = await openOnce(state.opened, state.entry, signal, say);
    state.chat ??= new Chat(model, typed("system"));
    await answer(state.chat, question, signal);
  });
}

async function answer(chat, question, signal) {
  const pause = pauses(signal);
  let one = null;
  tell(say("reading"));
  await turn();
  try {
    for (const exchange of chat.say(question)) {
      if (!one) one = begin(exchange);
      if (exchange.answer) draw(one);
      await pause();
    }
  } catch (error) {
    if (error.code === "unseen") error.what = oddIn(chat, question);
    if (error.name !== "AbortError") throw error;      // stopped: the talk says so itself
  } finally { if (one && chat === state.chat) finish(one); }
}

// The first character that the model's alphabet lacks.
function oddIn({ tok, system }, question) {
  const lacks = (c) => { try { tok.encode(c); } catch { return true; } return false; };
  return Array.from(question + system).find(lacks);
}

// Place for an exchange: what is asked, what is said, and what a person should know of it.
function begin(exchange) {
  const asked = element("p", "bubble asked"), said = element("p", "bubble said writing");
  const truth = state.asked.find(({ text }) => text === exchange.question);
  const one = { exchange, truth, li: element("li"), asked, said, notes: element("div") };
  one.li.append(asked, said, one.notes);
  $("talk").firstChild.append(one.li);
  state.said.push(one);
  $("question").value = "";
  drawAll();
  return one;
}

function finish(one) {
  const { exchange, li, said } = one, kept = state.chat.exchanges.includes(exchange);
  one.over = true;
  said.classList.remove("writing");
  tell(kept ? "" : say("dropped"));
  if (!kept) {
    state.said.pop();
    li.remove();
  }
  drawAll();
  const told = Array.from(li.children, (part) => part.textContent);
  if (kept) $("spoken").textContent = told.join(" ");
}

function drawAll() { for (const one of state.said) draw(one); }

function draw(one) {
  const { exchange, li, asked, said, notes } = one, i = state.said.indexOf(one);
  const gone = i < state.said.at(-1).exchange.forgotten;
  li.classList.toggle("gone", gone);
  asked.replaceChildren(hidden(say("you")), exchange.question);
  said.replaceChildren(hidden(say("it")), exchange.answer);
  notes.replaceChildren(...notesOn(one, gone).map(asNote));
  $("talk").scrollTop = $("talk").scrollHeight;
}

const hidden = (text) => element("span", "hidden", `${text} `);

// Lines below an answer, each in parts: a text, or a text and its class.
function notesOn(one, gone) {
  const { exchange: { answer, probability, ended, forgotten }, truth, over } = one, notes = [];
  const i = state.said.indexOf(one), before = state.said[i - 1]?.exchange.forgotten ?? 0;
  const aside = (name, values) => notes.push([say("aside", { text: say(name, values) })]);
  if (answer) notes.push([say("probability", { p: percent(probability) })]);
  if (ended === "end" && truth) notes[0].push(verdict(answer, truth));
  if (gone) notes[0].push(say("notRead"));
  if (ended === "length") aside("length");
  if (ended === "stopped" && over) aside("stopped");
  if (forgotten > before) {
    aside("forgotten", { n: forgotten, all: i, context: state.chat.config.context });
  }
  return notes;
}

function asNote(parts) {
  const note = element("p", "small note");
  for (const [i, part] of parts.entries()) {
    const [text, className] = [part].flat();
    if (i) note.append(" · ");
    note.append(className ? element("b", className, text) : text);
  }
  return note;
}

// What an answer to a question of the page is worth: a text and its class.
function verdict(answer, truth) {
  const found = judge(answer, truth), good = found === (truth.fact ? "right" : "refused");
  const names = truth.fact ? { right: "right", wrong: "wrongIs", refused: "refusedIs" }
    : { wrong: "madeUp", refused: "rightNo" };
  return [say(names[found], { truth: truthOf(truth) }), good ? "good" : "bad"];
}

// ------------------------------------------------------------------------------------------ start

function choose(entry) {
  state.entry = null;
  if (entry.chat !== CHATML) throw Object.assign(new Error(entry.name), { code: "template" });
  state.entry = entry;
  showAbout();
}

// Offer the models that talk; false where there is none.
async function offer() {
  try {
    const talkers = (await readModels()).filter(({ chat }) => chat);
    if (!talkers.length) throw Object.assign(new Error("models.json"), { code: "mute" });
    state.models = talkers;
    $("models").hidden = talkers.length < 2;
    choose(offerModels($("model"), talkers));
    return true;
  } catch (error) { tell(explain(error), true); }
  return false;
}

function speakIn(lang) {
  state.lang = lang;
  speakAll();
  drawAll();
  if (!typed("system") || typed("system") === state.told) another();
}

function listen() {
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("another").addEventListener("click", another);
  $("stop").addEventListener("click", () => state.job?.abort());
  $("reset").addEventListener("click", reset);
  $("language").addEventListener("change", () => speakIn($("language").value));
  $("system").addEventListener("change", () => {
    const old = state.chat;
    work(newText).then(() => old && tell(say("newTalk")));
  });
  $("model").addEventListener("change", () => {
    reset();
    work(async () => choose(state.models.find(({ name }) => name === $("model").value)));
  });
  page.addEventListener("keydown", (event) => {
    if (event.key === "Escape") state.job?.abort();
  });
}

listen();
speakIn(new URLSearchParams(location.search).get("lang") === "zh" ? "zh" : "en");
