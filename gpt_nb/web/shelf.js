// What the pages that open a model share: fetching it and its world, and showing a piece of text.
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
