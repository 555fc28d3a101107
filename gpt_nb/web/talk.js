// A conversation: what `Chat` of chapter 17b does in Python, in the template of chapter 17. All of
// the talk is handed to the model at every turn, as far as it fits; only what is new is read.
import { Session, probabilities } from "./engine.js";

export const MARKS = ["<|im_start|>", "<|im_end|>"];   // where a message begins and ends
export const CHATML = `
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
`.trim();                              // the one template that `promptIds` fills in

const fail = (code, values) => Object.assign(new Error(code), { code, values });

// A talk as tokens, up to where the answer begins. The marks are those of the template, never what
// a person typed: `encode` takes the name of a special token for text.
export function promptIds(tok, messages) {
  const [start, end] = MARKS.map((name) => tok.special.get(name)), ids = [];
  for (const { role, content } of messages) {
    ids.push(start, ...tok.encode(`${role}\n${content}`), end, ...tok.encode("\n"));
  }
  return [...ids, start, ...tok.encode("assistant\n")];
}

// What is said, as messages; the last exchange may have no answer yet.
export function asTalk(text, exchanges) {
  const messages = text ? [{ role: "system", content: text }] : [];
  for (const { question, answer } of exchanges) {
    messages.push({ role: "user", content: question });
    if (answer) messages.push({ role: "assistant", content: answer });
  }
  return messages;
}

// The talk as tokens, the oldest exchanges left out where it is longer than `room`; how many it
// leaves out is noted in the newest.
export function fit(tok, exchanges, room) {
  const fresh = exchanges.at(-1);
  let most = room, ids = [];
  for (let gone = fresh.forgotten; gone < exchanges.length; gone++) {
    fresh.forgotten = gone;
    ids = promptIds(tok, asTalk(fresh.text, exchanges.slice(gone)));
    if (ids.length <= most) break;
    most = Math.floor(room * 3 / 4);   // something has to go: let the next turns be spared
  }
  if (ids.length <= room) return ids;
  throw fail("long", { n: tok.encode(fresh.question).length, least: ids.length, room });
}

// A conversation about `system`, the text that may be used; "": there is none.
export class Chat {
  constructor(model, system = "", tokens = 256) {        // at most so many in an answer
    const { tok, config } = model, ends = [tok.special.get(MARKS[1]), tok.endId];
    Object.assign(this, { tok, config, system, tokens, exchanges: [] });
    this.session = new Session(model);
    this.ends = new Set([...ends, ...[config.eos_token_id].flat()]);
  }

  // Ask. Whoever takes the steps gets the exchange at each token that was read or written, and may
  // stop: what has come of the answer stays in the talk.
  *say(question) {
    if (!question.trim()) throw fail("nothing");
    const forgotten = this.exchanges.at(-1)?.forgotten ?? 0;         // gone is gone
    const fresh = { question, answer: "", text: this.system, forgotten, ended: "stopped",
      probability: 1 };
    try { yield* this.write(fresh); } finally {
      if (fresh.answer.trim()) this.exchanges.push(fresh);
    }
  }

  // The likeliest token at each place, up to the one that ends a message. `probability`: of the
  // answer so far; of all of it and its end, where it has ended.
  *write(fresh) {
    const { tok, config: { context } } = this, room = context - this.kept();
    const ids = fit(tok, [...this.exchanges, fresh], room);
    const most = Math.min(this.tokens, context - ids.length);
    const whole = new TextDecoder("utf-8", { ignoreBOM: true });     // half characters wait in it
    let logits = yield* this.read(ids, fresh);
    for (let n = 1; n <= most; n++) {
      const id = logits.reduce((best, logit, i) => logit > logits[best] ? i : best, 0);
      fresh.probability *= probabilities(logits)[id];
      if (this.ends.has(id)) { fresh.ended = "end"; return; }
      fresh.answer += whole.decode(tok.bytes(id), { stream: true });
      yield fresh;
      if (n < most) logits = this.session.feed(id);
    }
    fresh.ended = "length";
  }

  kept() { return Math.min(this.tokens, Math.floor(this.config.context / 4)); }   // for an answer

  // Logits of what comes after a row; of one that begins as the last did, only the rest is read.
  *read(ids, fresh) {
    const { session } = this, differ = ids.findIndex((id, i) => session.ids[i] !== id);
    const same = differ < 0 ? ids.length - 1 : Math.min(differ, ids.length - 1);
    session.back(session.length - same);
    let logits;
    for (const id of ids.slice(same)) {
      logits = session.feed(id);
      yield fresh;
    }
    return logits;
  }
}
