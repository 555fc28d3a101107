// What the page says, in both languages. {name} is filled in.

export const TEXT = {
  en: {
    title: "Train a GPT in this page",
    lead: "Press Train. First a bigram learns, which sees only the word before, then a GPT of " +
      "one layer, which sees all words before. Both start from nothing and read the same short " +
      "stories, here, in your browser; nothing leaves this page.",
    train: "Train", pause: "Pause", on: "Go on", again: "Train again", reset: "Reset",
    story: "Write a story now", rate: "Learning rate", language: "Stories", seed: "Seed",
    rateHelp: "how far each update moves the model's numbers; it may be changed at any time",
    seedHelp: "counts from the next start: the same seed, the same losses and stories",
    lossHead: "The loss",
    lossHelp: "How surprised the model is by the next word, on average, in nats (a toss of a " +
      "coin: 0.69). Lower is better. The line is measured on what it trains on, the dots on " +
      "stories that it never sees.",
    bigram: "bigram", gpt: "GPT of one layer",
    blind: "knows nothing: {loss}", counted: "bigram by counting: {loss}",
    floor: "floor, the best anybody can reach: {loss}", updates: "updates",
    readout: "{model}: update {update} of {all}, {tokens} words read ({speed} a second), " +
      "loss {loss}. Bigram by counting {counted}, floor {floor}.",
    writtenHead: "What it writes",
    writtenHelp: "A story at the start and after so many updates; an update reads {batch} " +
      "stories. First there are words, then sentences, then sense; under each story stands what " +
      "the rules of its world say of it.",
    look: "{model}, {update} updates, loss {loss}", now: "{model}, now, {update} updates",
    silent: "(no word at all)", holds: "holds together",
    shares: "Of {n} stories written now: {sentences} % of the sentences are well formed, " +
      "{facts} % of the facts true, {whole} stories hold together.",
    tryHead: "See it break",
    try1: "Put the learning rate at 0.1 while it trains: the loss jumps, and may come back. At 1 " +
      "it stays high, for each update steps too far; put it back at 0.01: does it recover? At " +
      "the far right the numbers grow until they are no numbers any more.",
    try2: "Put it at 0.0001: it learns, but too slowly. Pause, choose another rate, go on.",
    limits: "In the end nearly all sentences are well formed, and yet few stories hold together: " +
      "one layer does not keep well in mind who has the thing, where everybody is, and whose " +
      "dream came true. Models with more layers do.",
    code: "The code: forward, backward and AdamW by hand, in plain JavaScript",
    loading: "Fetching the stories …",
    missing: "The stories cannot be fetched: the file is missing, or there is no network. " +
      "Press Train to try again.",
    damaged: "The stories did not come whole (the file is cut off or damaged). Press Train " +
      "to try again.",
    startBigram: "The bigram learns.",
    startGpt: "The bigram is done, as good as counting. Now the GPT learns.",
    startGptPoor: "The bigram is done, at loss {loss}; counting reaches {counted}. Now the GPT " +
      "learns.",
    beats: "After {update} updates the GPT is better than the bigram by counting.",
    end: "Done after {update} updates: loss {loss}, {above} nats above the floor.",
    paused: "Paused.", goesOn: "It goes on.",
    rising: "The loss has risen from {best} to {loss}: the updates step too far and undo what " +
      "was learned. Lower the learning rate, and it may recover; or reset.",
    recovered: "It has recovered: the loss is back at {loss}.",
    nan: "The loss is no number any more, after {update} updates: the parameters grew until they " +
      "did not fit, and no update can bring them back. Reset puts the learning rate back to 0.01.",
    badSeed: "The seed must be a whole number from 0 to 999999.",
    failed: "Something went wrong: {what}",
  },
  zh: {
    title: "在网页里训练一个 GPT",
    lead: "按“训练”。先学的是二元模型，它只看前一个词；然后是单层 GPT，它能看到前面所有的词。" +
      "两者都从零开始，读同样的小故事，全部在这个网页里进行，任何内容都不会离开本页。",
    train: "训练", pause: "暂停", on: "继续", again: "再训练一次", reset: "重来",
    story: "现在写一个故事", rate: "学习率", language: "故事", seed: "随机种子",
    rateHelp: "每次更新让模型的参数移动多远；随时可以改",
    seedHelp: "下次开始时生效：种子相同，损失和故事也相同",
    lossHead: "损失",
    lossHelp: "模型对下一个词平均有多意外，单位是奈特（掷一次硬币：0.69），越低越好。" +
      "线是在训练用的故事上测的，点是在模型从未见过的故事上测的。",
    bigram: "二元模型", gpt: "单层 GPT",
    blind: "一无所知：{loss}", counted: "计数的二元模型：{loss}",
    floor: "下限，谁也不能更好：{loss}", updates: "更新次数",
    readout: "{model}：第 {update} 次更新，共 {all} 次，读过 {tokens} 个词（每秒 {speed} 个），" +
      "损失 {loss}。计数的二元模型 {counted}，下限 {floor}。",
    writtenHead: "它写的故事",
    writtenHelp: "开始时和若干次更新之后各写一个故事；每次更新读 {batch} 个故事。" +
      "先有词，然后有句子，最后有意义；每个故事下面是这个世界的规则对它的评判。",
    look: "{model}，{update} 次更新，损失 {loss}", now: "{model}，现在，{update} 次更新",
    silent: "（一个词也没有）", holds: "前后一致",
    shares: "此时写的 {n} 个故事里：{sentences}% 的句子合乎语法，{facts}% 的事实正确，" +
      "{whole} 个故事前后一致。",
    tryHead: "看它崩溃",
    try1: "训练时把学习率调到 0.1：损失猛地上升，也许还会回来。调到 1，每次更新都迈得太远，" +
      "损失降不下来；再调回 0.01：它能恢复吗？调到最右边，参数越来越大，直到不再是数。",
    try2: "调到 0.0001：它在学，但是太慢。暂停，换一个学习率，再继续。",
    limits: "到最后，几乎所有句子都合乎语法，可是前后一致的故事不多：单层模型记不好东西在谁手里、" +
      "每个人在哪里、谁的梦想实现了。层数更多的模型才行。",
    code: "代码：前向、反向和 AdamW 都用普通的 JavaScript 手写",
    loading: "正在取故事……",
    missing: "取不到故事：文件不存在，或者没有网络。请再按“训练”重试。",
    damaged: "故事文件不完整（被截断或已损坏）。请再按“训练”重试。",
    startBigram: "二元模型在学习。",
    startGpt: "二元模型学完了，和计数一样好。现在 GPT 在学习。",
    startGptPoor: "二元模型学完了，损失 {loss}；计数能达到 {counted}。现在 GPT 在学习。",
    beats: "{update} 次更新之后，GPT 已经胜过计数的二元模型。",
    end: "{update} 次更新后完成：损失 {loss}，比下限高 {above} 奈特。",
    paused: "已暂停。", goesOn: "继续训练。",
    rising: "损失从 {best} 升到了 {loss}：每次更新迈得太远，学到的又丢掉了。" +
      "把学习率调低，也许能恢复；或者按“重来”。",
    recovered: "恢复了：损失回到 {loss}。",
    nan: "{update} 次更新之后，损失已经不是一个数：参数大得无法表示，再也无法更新回来。" +
      "按“重来”，学习率就回到 0.01。",
    badSeed: "种子应是 0 到 999999 的整数。",
    failed: "出错了：{what}",
  },
};
