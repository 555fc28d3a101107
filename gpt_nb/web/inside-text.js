// What the page "Look inside" says, in both languages; lines that the playground
// has too are taken from there.
import { TEXT as SHARED } from "./playground-text.js";

const OWN = {
  en: {
    title: "Look inside a GPT",
    lead: "A small GPT reads a story in your browser, and the page shows what goes on in it: " +
      "where each head looks, how its guess forms layer by layer, and which places carry the " +
      "answer. Nothing that you type leaves this page.",
    storyText: "The story", look: "Look inside", another: "Another story",
    storyPlaceholder: "a text to read", read: "Read: {n} tokens. Choose one of them below.",
    empty: "There is no text to read: type one, or take an example.",
    tooLong: "The text has {n} tokens, and this model reads at most {context}: shorten it.",
    unknown: "The model never saw some of these words: where it reads <|unk|> it knows only that " +
      "there was a word.",
    unseen: "The model's alphabet lacks {what}: take it out of the text.",
    cut: "The model's files did not come whole. Press the button to fetch them again.",
    missing: "The model's files cannot be fetched: they are missing, or there is no network. " +
      "Press the button to try again.",
    headsHead: "Where each head looks",
    headsHelp: "A layer is one round of work on all tokens. Its heads look back, each in a way " +
      "of its own, and take something from the tokens they look at. All shares of one sum to 1.",
    storyHelp: "Click on a token, or move with the arrow keys and press Enter: the bars show how " +
      "much this head takes from each token to go on after it.",
    looks: "After {token}, head {head} of layer {layer} takes most from {most}.",
    allHeads: "All heads", allHelp: "One small map for each: a row is a token that looks, a " +
      "column one that is looked at, dark where much is taken. Press one to see it large.",
    oneHead: "Layer {layer}, head {head}: {self} from the token itself, {before} from the one " +
      "before, {first} from the first",
    habit: "On average over this text, head {head} of layer {layer} takes {self} from the token " +
      "itself, {before} from the one before it, {first} from the very first.",
    mapHead: "The map of this head",
    mapHelp: "Rows look at columns. The future is not there, so half of it is empty. Press on a " +
      "cell, or move with the arrow keys.",
    mapAlt: "A map of {n} by {n} tokens: {habit}",
    cell: "After {token}, it takes {share} from {from}.",
    lensHead: "How the guess forms",
    lensHelp: "The logit lens: what the model would say if it ended early. A row is a token, a " +
      "column the layers done so far, a cell the likeliest next token and its share. ✓: so the " +
      "text goes on. Press on a cell, or move with the arrow keys.",
    none: "embedding", layerN: "layer {n}", tokenHead: "after",
    lensCaption: "After {token}, when {layers} done:",
    layers0: "no layer was", layers1: "layer 0 was", layersN: "layers 0 to {n} were",
    own: "The text goes on with {token}: {shares} (embedding, then after each layer).",
    patchHead: "What carries the answer",
    patchHelp: "Two texts that differ in one word and so in what follows. The model reads the " +
      "second, but at one place its stream (the numbers that a token has become after a layer) " +
      "is replaced by that of the first. Where the answer of the first comes back, its cause " +
      "stands.",
    textA: "The first", textB: "The second: the same but for one word", put: "Compare",
    take: "Take the story above for both", pairs: "For example:",
    dream: "what he dreamed of", where: "where she is", home: "her home", pronoun: "his or her",
    same: "The two texts are the same: change one word in one of them.",
    lengths: "The texts have {a} and {b} tokens: to be compared place by place, they need as " +
      "many as each other. Exchange a word for one of the same kind.",
    answer: "Both go on with {a}: there is no difference to carry. Stop where the word that " +
      "differs decides.",
    working: "Putting in the first's stream, place by place: {n} of {all} …",
    patched: "The first goes on with {a}, the second with {b}. All {all} places tried.",
    gridHelp: "Per cent of the first's answer that come back: 0 as in the second, 100 as in the " +
      "first. Rows begin at the first token that differs; before it both are the same. Press on " +
      "a cell, or move with the arrow keys.",
    putIn: "The stream of {token} when {layers} done, taken from the first: {share} come back. " +
      "The second now goes on with:",
    without: "Without it: {list}. The first itself: {other}.",
    carrier0: "Before any layer, most comes back at {token}: {share}.",
    carrier: "After layer {n}, most comes back at {token}: {share}.",
  },
  zh: {
    title: "看看 GPT 的内部",
    lead: "一个小小的 GPT 就在这个网页里读一个故事，你可以看到它内部发生的事：每个头看哪里，猜测怎样逐层形成，" +
      "哪些位置传递了答案。你输入的内容不会离开这个网页。",
    storyText: "故事", look: "看内部", another: "换一个故事",
    storyPlaceholder: "要读的文本", read: "读完了：{n} 个词元。请在下面选一个。",
    empty: "没有可读的文本：请输入，或者选一个例子。",
    tooLong: "文本有 {n} 个词元，而这个模型最多读 {context} 个：请缩短。",
    unknown: "有些词模型从没见过：它读到 <|unk|> 时，只知道那里有一个词。",
    unseen: "模型的字表里没有{what}：请从文本里去掉。",
    cut: "模型的文件没有完整取回。再按一次按钮重新取。",
    missing: "取不到模型的文件：文件不存在，或者没有网络。再按一次按钮重试。",
    headsHead: "每个头看哪里",
    headsHelp: "一层就是对所有词元加工一遍。同一层的几个头往回看，各看各的，并从看到的词元那里取走一些东西。" +
      "看一次所取的份额加起来是 1。",
    storyHelp: "点击一个词元，或用方向键移动后按回车：橙色的条表示这个头在它之后接着写时，从每个词元那里取多少。",
    looks: "在{token}之后，第 {layer} 层的 {head} 号头取得最多的是{most}。",
    allHeads: "所有的头", allHelp: "每个头一张小图：一行是往回看的词元，一列是被看的词元，颜色深的地方取得多。按一张看大图。",
    oneHead: "第 {layer} 层的 {head} 号头：从词元自己取 {self}，从前一个取 {before}，从第一个取 {first}",
    habit: "在这段文本上平均来说，第 {layer} 层的 {head} 号头从词元自己取 {self}，从前一个取 {before}，从最开头取 {first}。",
    mapHead: "这个头的图",
    mapHelp: "行看列。看不到后面的词元，所以有一半是空的。点一格，或用方向键移动。",
    mapAlt: "{n} 乘 {n} 个词元的图：{habit}",
    cell: "在{token}之后，它从{from}取 {share}。",
    lensHead: "猜测怎样形成",
    lensHelp: "logit 透镜：如果模型提前结束，它会说什么。一行是一个词元，一列是已经做完的层，" +
      "一格是最可能的下一个词元和它的概率。✓：文本正是这样接下去的。点一格，或用方向键移动。",
    none: "嵌入", layerN: "第 {n} 层", tokenHead: "之后",
    lensCaption: "在{token}之后，{layers}：",
    layers0: "一层也没做时", layers1: "做完第 0 层时", layersN: "做完第 0 到 {n} 层时",
    own: "文本接下去的是{token}：{shares}（先是嵌入，然后是每一层之后）。",
    patchHead: "答案由什么传递",
    patchHelp: "两段文本只差一个词，所以接下去也不同。模型读第二段，但在一个位置上，它的流（一个词元经过一层之后变成的那些数）" +
      "换成第一段的。第一段的答案在哪里回来，原因就在哪里。",
    textA: "第一段", textB: "第二段：只差一个词", put: "比较",
    take: "两边都用上面的故事", pairs: "例如：",
    dream: "他梦想得到什么", where: "她在哪里", home: "她的家", pronoun: "他还是她",
    same: "两段文本一样：请改其中一段的一个词。",
    lengths: "两段文本分别有 {a} 和 {b} 个词元：要逐个位置比较，数目必须相同。请换成同类的词。",
    answer: "两段都接着写{a}：没有差别可传递。请停在那个词起作用的地方。",
    working: "正在逐个位置换上第一段的流：{n} / {all}……",
    patched: "第一段接着写{a}，第二段接着写{b}。{all} 个位置都试过了。",
    gridHelp: "第一段的答案回来了百分之几：0 与第二段一样，100 与第一段一样。行从第一个不同的词元开始，此前两段相同。" +
      "点一格，或用方向键移动。",
    putIn: "{token}的流，{layers}，换成第一段的：回来 {share}。第二段现在接着写：",
    without: "不换时：{list}。第一段本身：{other}。",
    carrier0: "一层也没做时，回来最多的位置是{token}：{share}。",
    carrier: "做完第 {n} 层后，回来最多的位置是{token}：{share}。",
  },
};

export const TEXT = { en: { ...SHARED.en, ...OWN.en }, zh: { ...SHARED.zh, ...OWN.zh } };

export function line(lang, name, values = {}) {
  return TEXT[lang][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

// A story of each world, and pairs that differ in one word: name, text, what stands at @.
const EN = "Long ago a clever princess named Noel lived in the castle. Her friend, a famous " +
  "prince named Walter, lived in the jungle. Noel had a red kite. Walter had a blue lamp. Walter " +
  "dreamed of the kite. One day Noel walked to the school. Now Noel was in the";
const GIFT = "Long ago a clever princess named Vera lived in the castle. Her friend, a famous " +
  "prince named Walter, lived in the jungle. Vera had a red kite. Walter had a blue lamp. Walter " +
  "dreamed of the @. One day Vera gave Walter the kite. Now Vera was in the castle. At last only";
const ZH = "从前城堡里住着一个骄傲的女王，名叫劳拉。她的朋友是聪明的王子萨沙，住在丛林里。劳拉有一面金色的镜子。" +
  "萨沙有一条黄色的毛巾。萨沙渴望去寺庙。有一天劳拉走到了学校。现在劳拉在";
export const STORIES = { "en-2": EN, "zh-2": ZH };
export const PAIRS = {
  "en-2": [
    ["dream", GIFT, "kite", "lamp"],
    ["where", EN.replace("school", "@"), "school", "forest"],
    ["home", `${EN.replace("castle", "@")} school. At last only Noel sang about her home in the`,
      "castle", "mill"],
    ["pronoun", `${EN.replace("prince named Walter", "@ named Walter").replaceAll("Walter", "Alex")
      } school. At last only Alex sang about`, "prince", "princess"],
  ],
  "zh-2": [
    ["where", ZH.replace("学校", "@"), "学校", "森林"],
    ["home", `${ZH.replace("城堡", "@")}学校里。最后只有劳拉唱起她在`, "城堡", "磨坊"],
  ],
};
