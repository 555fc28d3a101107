// What the pages that open a model share: their language, the models that there are, fetching one
// and its world, and showing a piece of text.
import { openModel } from "./engine.js";
import { turn } from "./turn.js";
import { World } from "./world.js";

const web = new URL("./", import.meta.url);

export async function readJSON(name, signal) {
  let answer;
  try { answer = await fetch(new URL(name, web), { signal }); } catch (error) {
    throw error.name === "AbortError" ? error : Object.assign(error, { code: "missing" });
  }
  if (!answer.ok) throw Object.assign(new Error(name), { code: "missing" });
  try { return await answer.json(); } catch (error) {
    throw error.name === "AbortError" ? error : Object.assign(error, { code: "damaged" });
  }
}

// A model of models.json and its world, where it has one. `onProgress(bytes, of)`.
export async function openEntry(entry, signal, onProgress) {
  try {
    const data = entry.world ? await readJSON(entry.world, signal) : null;
    const folder = new URL(`models/${encodeURIComponent(entry.name)}/`, web);
    const model = await openModel(folder, { onProgress, signal });
    await turn();
    return { model, world: data && new World(data, entry.level) };
  } catch (error) {
    error.code ??= "format";           // came whole, and yet cannot be understood
    throw error;
  }
}

// The models of models.json.
export async function readModels() {
  const models = await readJSON("models.json");
  const good = Array.isArray(models) && models.every((model) => ["en", "zh"].includes(model?.lang));
  if (good && models.length) return models;
  throw Object.assign(new Error("models.json"), { code: "format" });
}

// Those that go on with a text: one that talks (`chat`: its template) only where it is alone.
export function writers(models) {
  const some = models.filter(({ chat }) => !chat);
  return some.length ? some : models;
}

// Offer models in a field; the one that the address names, or the first.
export function offerModels(field, models) {
  const wanted = new URLSearchParams(location.search).get("model");
  const entry = models.find(({ name }) => name === wanted) ?? models[0];
  field.replaceChildren(...models.map(({ name, lang, world }) =>
    new Option(world ? `${lang === "zh" ? "中文：" : "English: "}${name}` : name, name)));
  field.value = entry.name;
  return entry;
}

// What `openEntry` gives, kept in the Map `opened`; while it comes the page shows how much has.
export async function openOnce(opened, entry, signal, say) {
  if (opened.has(entry.name)) return opened.get(entry.name);
  const part = (id) => document.getElementById(id), million = (bytes) => (bytes / 1e6).toFixed(1);
  const onProgress = (done, all) => {
    part("progress").value = done / all;
    part("got").textContent = say("got", { done: million(done), all: million(all) });
  };
  part("fetching").hidden = false;
  onProgress(0, entry.bytes);
  try {
    opened.set(entry.name, await openEntry(entry, signal, onProgress));
    return opened.get(entry.name);
  } finally { part("fetching").hidden = true; }
}

// Every line of a page in a language, "en" or "zh". `lines`: name -> text.
export function speak(page, lang, lines) {
  const language = lang === "zh" ? "zh-CN" : "en", head = document.querySelector("h1");
  page.lang = head.lang = language;
  for (const each of page.querySelectorAll("[data-text]")) {
    each.textContent = lines[each.dataset.text];
  }
  document.getElementById("progress").ariaLabel = lines.loading;
  for (const link of document.querySelectorAll(".language a")) {
    link.ariaCurrent = link.hreflang === language ? "true" : null;
  }
  if (head.firstChild?.nodeType === Node.TEXT_NODE) head.firstChild.data = lines.title;
  if (!document.body.classList.contains("alone")) return;
  document.documentElement.lang = language;
  document.title = lines.title;
}

const LONGEST = 40;                    // characters of what is quoted
export const short = (text, most = LONGEST) =>
  text.length > most ? `${Array.from(text.slice(0, 2 * most)).slice(0, most).join("")}…` : text;

// A piece of text so that it can be seen: short, lines and spaces drawn, what has no shape named.
export function visible(text) {
  const bare = /\S/.test(text) ? text.replace(/^ | $/g, "") : text;
  const drawn = short(bare).replace(/^ $| {2,}/g, (run) => "␣".repeat(run.length))
    .replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return drawn.replace(/^[\p{C}\p{Zl}\p{Zp}]+$|\p{Cc}/gu, (some) => Array.from(some, (c) =>
    `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" "));
}
