// What the playground says, in both languages. {name} is filled in.

export const TEXT = {
  en: {
    title: "A GPT that writes in this page",
    lead: "Type the beginning of a story, or leave it empty, and press Write. A small GPT goes " +
      "on token by token (a token is a word, a part of one, or a mark), inside your browser: " +
      "nothing that you type leaves this page.",
    truth: "The stories come from a small made-up world. Its rules know how likely each word " +
      "really is, and whether a story holds together. So the truth stands beside the guess.",
    model: "Model", beginning: "The beginning", examples: "For example:",
    placeholder: "empty: a new story",
    write: "Write", another: "Write another", step: "One token", on: "Go on", stop: "Stop",
    story: "The story", start: "beginning of the text", end: "end of the story",
    ended: "The story has ended. Click on one of its tokens: what else it could have been is " +
      "shown here.",
    help: "Click on a token, or move with the arrow keys and press Enter, to see what else it " +
      "could have been, and to put another in its place.",
    waiting: "The story will stand here.",
    attention: "What it looks at", layer: "Layer", head: "Head",
    bars: "The orange bars under the story show how much the model takes from each token when it " +
      "chooses one. A layer is one round of work on all tokens; its heads look back, each in a " +
      "way of its own.",
    looks: "Before it chose {next}, head {head} of layer {layer} looked most at {most}.",
    looksEnd: "To choose what comes next, head {head} of layer {layer} looks most at {most}.",
    insideLink: "All heads, the guess layer by layer, and what carries it: look inside this story",
    next: "What comes next", instead: "What else it could have been",
    nothing: "Press Write: the model's guesses appear here.",
    after: "After “…{text}”:", atStart: "At the very beginning:",
    choose: "Press a word to go on with it.",
    token: "Next", guess: "Model", drawn: "As drawn", true: "Truth",
    written: "written here", others: "all others", endToken: "(the end)",
    agree: "Model: what it expects. Truth: what the rules of the world make of the same " +
      "beginning. The two have {share} in common.",
    drawnHelp: "As drawn: the model's guess after the settings below; tokens are drawn from this.",
    inside: "The beginning stops inside what the model reads as one token, or is cut into tokens " +
      "as no story is: its guess is worse here.",
    noTruth: "The world cannot tell a story that begins so: there is no truth to compare with, " +
      "only the model's guess.",
    noWorld: "No world is known for this model's text: there is no truth to compare with, only " +
      "the model's guess.",
    full: "The model has read all it can hold: it guesses no further.",
    settings: "How it chooses",
    temperature: "Temperature", temperatureHelp: "0: always the likeliest. 1: as likely as the " +
      "model says. More: bolder.",
    topP: "Top-p", topPHelp: "keep the likeliest tokens that have this share together. 1: all.",
    topK: "Top-k", topKHelp: "keep only so many of the likeliest. 0: all.",
    minP: "Min-p", minPHelp: "drop tokens below this share of the likeliest. 0: none.",
    seed: "Seed", seedHelp: "the same seed writes the same text.",
    pace: "Pace", fast: "as fast as it can", slow: "slow, to watch",
    needsNumber: "{name} must be {what}.",
    number: "a number from {low} to {high}", whole: "a whole number from {low} to {high}",
    loading: "Fetching the model …", got: "{done} of {all} MB", reading: "Reading the beginning …",
    writing: "Writing …",
    stoppedEarly: "Stopped.",
    stopped: "Stopped after {n} tokens. Press Go on, or a word on the list.",
    one: "Token {n} is written. Press One token for the next, or Go on.",
    done: "Done: {n} tokens, {speed} a second. Same beginning and seed: the same story.",
    contextFull: "The model reads at most {context} tokens at once, and the story has reached " +
      "them: it stops here.",
    tooLong: "The beginning has {n} tokens, and this model reads at most {context}: shorten it.",
    tooMuch: "The beginning has {n} characters, and this model reads at most {context} tokens: " +
      "shorten it.",
    unknown: "The model never saw {words}: it reads only a gap there. It knows the few hundred " +
      "words of its world: begin as the examples do.",
    unseenWord: "The model never saw {words}: it reads only a gap there.",
    unseen: "The model's alphabet lacks {words}: take it out of the beginning.",
    cut: "The model's files did not come whole (they are cut off or damaged). Press Write to " +
      "fetch them again.",
    missing: "The model's files cannot be fetched: they are missing, or there is no network. " +
      "Press Write to try again.",
    broken: "The model's files are damaged or of another version than this page: load the page " +
      "anew.",
    failed: "Something went wrong: {what}",
    about: "{n} learned numbers (parameters), {size}", many: "{n} million",
    holds: "This story holds together.", soFar: "{n} so far; nothing wrong yet.",
    sentence: "{n} sentence", sentences: "{n} sentences",
    wrongs: "What is wrong by the rules of this world:", whole_: "The whole",
    quote: "“{text}”", and: ", ", also: "; ", percent: "{p} %",
  },
  zh: {
    title: "在网页里写作的 GPT",
    lead: "输入故事的开头，或者留空，然后按“写”。一个小小的 GPT 就在这个网页里一个词元一个词元地往下写" +
      "（词元是一个词、词的一部分或一个标点）：你输入的内容不会离开这个网页。",
    truth: "故事来自一个虚构的小世界。它的规则知道每个词真正的概率，也知道故事是否前后一致。" +
      "所以每个猜测旁边都有真实的概率。",
    model: "模型", beginning: "开头", examples: "例如：",
    placeholder: "留空：写一个新故事",
    write: "写", another: "再写一篇", step: "写一个词元", on: "继续", stop: "停",
    story: "故事", start: "文本开头", end: "故事结尾",
    ended: "故事写完了。点击其中一个词元，这里就显示那里还可能是什么。",
    help: "点击一个词元，或用方向键移动后按回车，看看这里还可能是什么，也可以换成另一个词。",
    waiting: "故事会写在这里。",
    attention: "它在看哪里", layer: "层", head: "头",
    bars: "故事下方橙色的条表示：模型选一个词元时，从前面每个词元那里取多少。" +
      "一层就是对所有词元加工一遍；同一层有几个头同时往回看，各看各的。",
    looks: "在选出{next}之前，第 {layer} 层的 {head} 号头看得最多的是{most}。",
    looksEnd: "为了选出下一个词元，第 {layer} 层的 {head} 号头看得最多的是{most}。",
    insideLink: "所有的头、逐层的猜测、答案由什么传递：看看这个故事在模型内部怎样",
    next: "接下来是什么", instead: "这里还可能是什么",
    nothing: "按“写”，这里就显示模型的猜测。",
    after: "在“…{text}”之后：", atStart: "在最开头：",
    choose: "点一个词，就从它继续写。",
    token: "接着", guess: "模型", drawn: "抽取时", true: "真相",
    written: "这里写的是它", others: "其他全部", endToken: "（结束）",
    agree: "模型：它预计的概率。真相：世界的规则对同样的开头给出的概率。两者重合 {share}。",
    drawnHelp: "抽取时：模型的猜测经过下面的设置之后的概率，词元就按它抽取。",
    inside: "开头停在一个词元的中间，或者词元的切法与故事里的不同，所以模型在这里猜得差一些。",
    noTruth: "这个世界讲不出这样开头的故事：没有真相可比，只有模型的猜测。",
    noWorld: "没有与这个模型的文本对应的世界：没有真相可比，只有模型的猜测。",
    full: "模型一次能读的已经读满，不再往下猜。",
    settings: "怎样选择",
    temperature: "温度", temperatureHelp: "0：总选最可能的。1：按模型给出的概率。更大：更大胆。",
    topP: "Top-p", topPHelp: "从最可能的词元起，留到概率之和达到这个数为止。1：全部保留。",
    topK: "Top-k", topKHelp: "只留最可能的这么多个词元。0：全部保留。",
    minP: "Min-p", minPHelp: "去掉概率低于最大概率这一比例的词元。0：不去掉。",
    seed: "种子", seedHelp: "相同的种子写出相同的文本。",
    pace: "速度", fast: "尽快", slow: "慢，便于观看",
    needsNumber: "{name}应当是{what}。",
    number: "从 {low} 到 {high} 的数", whole: "从 {low} 到 {high} 的整数",
    loading: "正在取回模型……", got: "{done} / {all} MB", reading: "正在读开头……",
    writing: "正在写……",
    stoppedEarly: "停下了。", stopped: "写了 {n} 个词元后停下。按“继续”，或点列表里的一个词。",
    one: "第 {n} 个词元写好了。再按“写一个词元”，或按“继续”。",
    done: "写完了：{n} 个词元，每秒 {speed} 个。开头和种子相同，故事就相同。",
    contextFull: "模型一次最多读 {context} 个词元，故事已经到了这个长度，就此停下。",
    tooLong: "开头有 {n} 个词元，而这个模型最多读 {context} 个：请缩短。",
    tooMuch: "开头有 {n} 个字符，而这个模型最多读 {context} 个词元：请缩短。",
    unknown: "模型从没见过{words}：那里它只读到一个空缺。它只认识小世界里的几百个词，请像例子那样开头。",
    unseenWord: "模型从没见过{words}：那里它只读到一个空缺。",
    unseen: "模型的字表里没有{words}：请从开头里去掉。",
    cut: "模型的文件没有完整取回（被截断或已损坏）。再按“写”重新取。",
    missing: "取不到模型的文件：文件不存在，或者没有网络。再按“写”重试。",
    broken: "模型文件已损坏，或者与本页的版本不同：请重新载入网页。",
    failed: "出错了：{what}",
    about: "{n}个参数，{size}", many: "{n} 万",
    holds: "这个故事前后一致。", soFar: "到目前 {n}，还没有错。",
    sentence: "{n} 句", sentences: "{n} 句",
    wrongs: "按这个世界的规则，有这些错误：", whole_: "整体",
    quote: "“{text}”", and: "、", also: "；", percent: "{p}%",
  },
};

// Beginnings that a world of that language and level can tell.
export const EXAMPLES = {
  "en-1": ["Once a shy witch named", "Once a kind king"],
  "en-2": ["Once there was a shy witch named", "Long ago a", "Once there was a kind king"],
  "zh-1": ["从前磨坊里住着一个", "从前城堡里住着一个善良的国王"],
  "zh-2": ["从前磨坊里有一个", "很久以前", "从前城堡里有一个善良的国王"],
};

// One line, its gaps filled in.
export function line(lang, name, values = {}) {
  return TEXT[lang][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}
