// What the page "Talk to it" says, in both languages; lines that the playground has too are taken
// from there, and what falls out of a talk is said as `gpt-nb chat` says it.
import { TEXT as SHARED } from "./playground-text.js";

const OWN = {
  en: {
    title: "Talk to it",
    lead: "A small GPT that was taught to answer questions about a story, and to say so where " +
      "the story does not tell. It runs in your browser: nothing that you type leaves this page.",
    language: "Language", system: "The text it may use",
    systemPlaceholder: "a story; or nothing, and it can only say that it does not know",
    another: "Another story", talkHead: "The talk",
    waiting: "Ask something, or take one of the questions below.",
    question: "Your question", questionPlaceholder: "ask, then Enter", send: "Ask",
    reset: "Reset", can: "The story says:", cannot: "It does not say:",
    truth: "The world that told the story knows what is true: it stands beside the answers to " +
      "these questions. The probability is that of the whole answer, as the model gives it. All " +
      "that was said is handed over again with each question, as far as it fits; the oldest goes " +
      "first.",
    more: "How it works:", chapter17: "how it was taught", chapter17b: "how a talk is held",
    reading: "Reading …", you: "You:", it: "The model:",
    nothing: "The message is empty: write something.",
    long: "The message has {n} tokens, {least} with what stands around it, and the model has " +
      "room for {room}: shorten it, or the text above.",
    forgotten: "forgotten: {n} of {all} questions and answers before this; the context has " +
      "{context} tokens",
    length: "cut: the answer was longer than the room",
    stopped: "stopped; what was said of the answer stays in the talk",
    dropped: "The model gave no answer; the question is dropped.",
    newTalk: "A new talk: nothing of the old one is read any more.",
    notRead: "not read any more", aside: "({text})",
    probability: "probability {p}", right: "right", wrongIs: "wrong, true is: {truth}",
    refusedIs: "refused, and yet the story says: {truth}",
    rightNo: "right: the story does not say", madeUp: "made up: the story does not say",
    mute: "No model here was taught to talk: gpt-nb play tales-chat brings one that was.",
    template: "This model has a chat template of its own, which the page does not fill in: talk " +
      "with it in the terminal, gpt-nb chat RUN.",
    unseen: "The model's alphabet lacks {what}: take it out.",
    cut: "The model's files did not come whole. Ask again to fetch them again.",
    missing: "The model's files cannot be fetched: they are missing, or there is no network. Ask " +
      "again to try again.",
  },
  zh: {
    title: "和它对话",
    lead: "一个小小的 GPT，学过回答关于故事的问题，故事里没说的，它也学过直说没有说。它就在这个网页里运行：" +
      "你输入的内容不会离开这个网页。",
    language: "语言", system: "它可以用的文本",
    systemPlaceholder: "一个故事；留空的话，它只能说不知道",
    another: "换一个故事", talkHead: "对话",
    waiting: "请提问，或者选下面的一个问题。",
    question: "你的问题", questionPlaceholder: "输入问题，按回车", send: "问",
    reset: "重新开始", can: "故事里说了：", cannot: "故事里没说：",
    truth: "讲这个故事的小世界知道什么是真的：对这些问题，回答旁边就写着真相。概率是整个回答的概率，由模型给出。" +
      "每次提问，前面说过的都会再交给它，只要放得下；放不下时，先去掉最早的。",
    more: "它是怎样做成的：", chapter17: "怎样学会回答", chapter17b: "怎样进行对话",
    reading: "正在读……", you: "你：", it: "模型：",
    nothing: "消息是空的：请写点什么。",
    long: "消息有 {n} 个词元，连同前后的内容共 {least} 个，而模型只有 {room} 个的位置：请缩短消息，或者上面的文本。",
    forgotten: "已忘记：此前 {all} 组问答中的 {n} 组；上下文有 {context} 个词元",
    length: "截断：回答超出了剩下的位置",
    stopped: "停下了；已经说出的部分留在对话里",
    dropped: "模型没有回答；这个问题不算。",
    newTalk: "新的对话：之前的内容都不再读了。",
    notRead: "不再读了", aside: "（{text}）",
    probability: "概率 {p}", right: "正确", wrongIs: "错误，真相是：{truth}",
    refusedIs: "没有回答，其实故事里说了：{truth}",
    rightNo: "正确：故事里没说", madeUp: "编造：故事里没说",
    mute: "这里没有学过对话的模型：gpt-nb play tales-chat 会带来一个。",
    template: "这个模型有自己的对话模板，本页不会填：请在终端里用 gpt-nb chat RUN 和它对话。",
    unseen: "模型的字表里没有{what}：请去掉。",
    cut: "模型的文件没有完整取回。再问一次，就会重新取。",
    missing: "取不到模型的文件：文件不存在，或者没有网络。再问一次重试。",
  },
};

export const TEXT = { en: { ...SHARED.en, ...OWN.en }, zh: { ...SHARED.zh, ...OWN.zh } };

export function line(lang, name, values = {}) {
  return TEXT[lang][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}
