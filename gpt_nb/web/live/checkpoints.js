// Chapter 12: what each copy of the model `growing` makes of the reader's beginning, always the
// likeliest token, and what the checker of the world says.
import { Session, softmax } from "../engine.js";
import { World } from "../world.js";
import { escape, json, model } from "./figure.js";

export const press = "Let the copies write here: fetches 0.5 MB for each";

// The ids that follow a beginning, and the mean surprise at them.
async function goOn({ tok, config, ...rest }, beginning, pause) {
  const session = new Session({ tok, config, ...rest });
  const read = [tok.endId, ...tok.encode(beginning)], added = [];
  if (config.context <= read.length) {
    throw new Error(`This beginning fills the context of ${config.context} tokens.`);
  }
  let logits, surprise = 0;
  for (const id of read) { logits = session.feed(id); await pause(); }
  while (true) {
    const best = logits.reduce((a, logit, id) => logit > logits[a] ? id : a, 0);
    softmax(logits);
    surprise -= Math.log(logits[best]);
    added.push(best);
    if (best === tok.endId || session.length === config.context) break;
    if (added.length + read.length === config.context) break;
    logits = session.feed(best);
    await pause();
  }
  return { read: read.slice(1), added, surprise: surprise / added.length };
}

const percent = (share) => `${(100 * share).toFixed(2)}%`;

export async function view({ beginning, updates }, data, { say, pause }) {
  const name = `growing-${String(updates).padStart(6, "0")}`;
  const copy = await model(name, (part) => say(`<p>fetching the copy: ${percent(part)}</p>`));
  const world = new World(await json("../world-en.json"), 1), { tok } = copy;
  const { read, added, surprise } = await goOn(copy, beginning, pause);
  const start = tok.decode(read), text = tok.decode([...read, ...added].filter(plain));
  function plain(id) { return id !== tok.endId; }
  const said = world.check(text), verdict = said.reasons.slice(0, 2).join("; ");
  return `<blockquote><b>${escape(start)}</b>${escape(text.slice(start.length))}</blockquote>` +
    `<p>${added.length} tokens, surprise ${surprise.toFixed(4)} nats a token; ` +
    `words ${percent(said.words)}, sentences ${percent(said.sentences)}, ` +
    `facts ${percent(said.facts)}<br>${escape(verdict || "holds together")}</p>`;
}
