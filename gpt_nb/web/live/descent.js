// Chapter 04: the loss of one pair of deeds, value by value, and its slopes on the way back; the
// twelve numbers after some updates. `Value` mirrors the class of that chapter.

class Value {
  constructor(data, parents = [], slopes = []) {       // how fast it changes with each parent
    Object.assign(this, { data, parents, slopes, grad: 0 });
  }

  plus(other) { return new Value(this.data + other.data, [this, other], [1, 1]); }
  times(other) { return new Value(this.data * other.data, [this, other], [other.data, this.data]); }
  scaled(by) { return new Value(this.data * by, [this], [by]); }
  inverse() { return new Value(1 / this.data, [this], [-1 / this.data ** 2]); }
  exp() { const e = Math.exp(this.data); return new Value(e, [this], [e]); }
  log() { return new Value(Math.log(this.data), [this], [1 / this.data]); }

  trail(found = new Set()) {                           // itself last, each after its parents
    for (const parent of this.parents) if (!found.has(parent)) parent.trail(found);
    return found.add(this);
  }

  backward() {
    this.grad = 1;
    for (const each of [...this.trail()].reverse()) {  // the chain rule, from the latest on
      each.parents.forEach((parent, i) => { parent.grad += each.grad * each.slopes[i]; });
    }
  }
}

// From a row of four logits to the loss of the deed that came: name -> value, as they are made.
function fromRow(logits, names, came) {
  const z = logits.map((logit) => new Value(logit)), powers = z.map((value) => value.exp());
  const total = powers.reduce((sum, power) => sum.plus(power)), share = total.inverse();
  const p = powers[came].times(share), log = p.log();
  return new Map([...names.map((name, i) => ["z " + name, z[i]]),
    ...names.map((name, i) => [`exp(z ${name})`, powers[i]]),
    ["sum", total], ["1 / sum", share], ["p", p], ["log p", log], ["loss", log.scaled(-1)]]);
}

// The loss of all pairs and its slopes in the twelve numbers: each pair counts as often as it came.
function allPairs(W, { after, counts }) {
  const slopes = W.map((row) => row.map(() => 0)), n = counts.flat().reduce((a, b) => a + b);
  let loss = 0;
  counts.forEach((row, a) => row.forEach((count, b) => {
    const made = fromRow(W[a], after, b), last = made.get("loss");
    last.backward();
    loss += last.data * count / n;
    after.forEach((name, k) => { slopes[a][k] += made.get("z " + name).grad * count / n; });
  }));
  return { loss, slopes };
}

async function numbersAfter(updates, rate, data, pause) {
  let W = data.counts.map((row) => row.map(() => 0));
  for (let i = 0; i < updates; i++) {
    const { slopes } = allPairs(W, data);
    W = W.map((row, a) => row.map((number, b) => number - rate * slopes[a][b]));
    await pause();
  }
  return W;
}

const rowOf = (name, cells) => `<tr><th>${name}${cells.map((cell) => `<td>${cell}`).join("")}`;
const fourDigits = (numbers) => numbers.map((number) => number.toFixed(4));

export async function view({ first, then, updates, rate, back }, data, { pause }) {
  const W = await numbersAfter(updates, rate, data, pause);
  const row = W[data.before.indexOf(first)];
  const made = [...fromRow(row, data.after, data.after.indexOf(then))];
  made.at(-1)[1].backward();
  const pair = made.map(([name, { data: value, grad }], i) =>
    rowOf(name, [value.toFixed(4), i >= made.length - back ? grad.toFixed(4) : ""]));
  const twelve = W.map((numbers, i) => rowOf(data.before[i], fourDigits(numbers)));
  return `<table class="dataframe"><tr><td><th>value<th>slope${pair.join("")}</table>` +
    `<p>All pairs after ${updates} updates: loss ${allPairs(W, data).loss.toFixed(4)}</p>` +
    `<table class="dataframe">${rowOf("", data.after)}${twelve.join("")}</table>`;
}
