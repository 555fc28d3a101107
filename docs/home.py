"Home in two languages, the map of chapters, the page to start with, the glossary."
import html
import json
import re
import shutil
from pathlib import Path

from chapters import HERE, NBS, ROOT, Chapter, Term, glossary
from contents import PARTS, PLANNED, part_of
from frames import page

MADE = HERE / "_static" / "made"
LABELS = {   # of the picture of what emerges
    "en": ("words that exist", "sentences that are well formed", "stories that hold",
           "stories that hold, by counting", "tokens read"),
    "zh": ("存在的词", "合乎语法的句子", "前后一致的故事",
           "前后一致的故事（计数模型）", "读过的词元"),
}
EXPECTED = {   # head of the table of measured runs
    "en": ("text", "trained on", "parameters", "minutes", "memory", "loss (best possible)",
           "stories that hold"),
    "zh": ("文本", "机器", "参数", "分钟", "内存", "损失（最优值）", "前后一致的故事"),
}
COLORS = {"words": "#4c9be8", "sentences": "#f0883e", "story": "#3fb950"}
SAID = {   # under each story of the slider
    "en": ("tokens read", "holds together", "; ",
           "{words:.0%} of words exist, {sentences:.0%} of sentences are well formed, "
           "{story:.0%} of stories hold."),
    "zh": ("读过的词元", "前后一致", "；",
           "{words:.0%} 的词确实存在，{sentences:.0%} 的句子合乎语法，"
           "{story:.0%} 的故事前后一致。"),
}


def results(name: str) -> dict:
    return json.loads((NBS / "results" / f"{name}.json").read_text("utf-8"))


def chapter_table(chapters: list[Chapter]) -> str:
    "The map: built chapters with what they take, planned ones in grey."
    rows = ["| | chapter | what you get | text | and code | run | builds on |",
            "|---|---|---|---|---|---|---|"]
    built, part = {c.number: c for c in chapters}, None
    for number in sorted(built.keys() | PLANNED.keys()):
        if part != (part := part_of(number)): rows.append(f"| | **{part.title}** | | | | | |")
        rows.append(built_row(built[number]) if number in built else planned_row(number))
    return "\n".join(rows)


def built_row(c: Chapter) -> str:
    title, promise = c.head
    text, both = c.minutes
    run = "" if c.seconds is None else f"{c.seconds}&nbsp;s"
    link = f"[{title}](notebooks/{c.stem}.ipynb)"
    times = f"{text}&nbsp;min | {both}&nbsp;min | {run}"
    return f"| {c.number} | {link} | {promise} | {times} | {' '.join(c.builds_on)} |"


def planned_row(number: str) -> str:
    grey = '<span class="planned">{}</span>'.format
    plan = PLANNED[number]
    return f"| {grey(number)} | {grey(plan.title + ' (planned)')} | {grey(plan.promise)} | | | | |"


def slug(heading: str) -> str:
    "The anchor that a heading gets."
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def chinese_chapters(chapters: list[Chapter]) -> str:
    "Of each chapter: its summary, its sections, three things to remember."
    built, parts, part = {c.number: c for c in chapters}, [], None
    for number in sorted(built.keys() | PLANNED.keys()):
        if part != (part := part_of(number)): parts.append(f"## {part.chinese}")
        parts.append(chinese_chapter(built[number]) if number in built
                     else f'<p class="planned">{number} {PLANNED[number].chinese}（尚未写成）</p>')
    return "\n\n".join(parts)


def chinese_chapter(c: Chapter) -> str:
    zh = c.chinese
    title = f"### {c.number} [{zh.title}](notebooks/{c.stem}.ipynb)"
    text = f"(zh-{c.number})=\n{title}\n\n{zh.summary}"
    points = "\n".join(f"{i}. {point}" for i, point in enumerate(zh.remember, 1))
    if points: text += f"\n\n**记住三点**\n\n{points}"
    links = [f'<a href="notebooks/{c.stem}.html#{slug(heading)}">{html.escape(name)}</a>'
             for name, heading in zip(zh.sections, c.sections)]
    if not links: return text
    fold = f'<details class="zh"><summary>各节</summary><p>{" · ".join(links)}</p></details>'
    return f"{text}\n\n{fold}"


MORE = {   # pages beside the chapters, in the sidebar of the Chinese pages
    "zh.html": "中文首页", "start-zh.html": "从这里开始",
    "playground.html?model=tales-zh": "在网页里写作的 GPT",
    "inside.html?model=tales-zh": "看看 GPT 的内部",
    "talk.html?lang=zh": "和它对话",
    "training.html?lang=zh": "在网页里训练一个 GPT",
    "notebooks/howto-zh.html": "怎样……？", "glossary.html": "术语表",
    "notebooks/claims.html": "流行文章的错误（英文）",
    "notebooks/programs.html": "流行文章的程序（英文）",
    "notebooks/speed.html": "速度（英文）", "notebooks/promises.html": "承诺与检验（英文）",
    "use.html": "使用（英文）",
    "reference/index.html": "参考手册（英文）"}


def chinese_sidebar(chapters: list[Chapter], up: str) -> str:
    "The sidebar of the Chinese pages: links to the summaries, part by part; `up` to the root."
    lists = [sidebar_list("从这里开始", {up + link: name for link, name in MORE.items()})]
    for part in PARTS:
        own = [c for c in chapters if part_of(c.number) == part]
        links = {f"{up}zh.html#zh-{c.number}": f"{c.number} {c.chinese.title}" for c in own}
        if own: lists.append(sidebar_list(part.chinese, links))
    return "".join(lists)


def sidebar_list(title: str, links: dict[str, str]) -> str:
    "One caption with its links, as furo writes them."
    head = ('<p class="caption" role="heading" aria-level="2">'
            f'<span class="caption-text">{title}</span></p>')
    links = [f'<a class="reference internal" href="{link}">{html.escape(name)}</a>'
             for link, name in links.items()]
    items = [f'<li class="toctree-l1">{link}</li>' for link in links]
    return f"{head}<ul>{''.join(items)}</ul>"


def house_story() -> tuple[str, str]:  # the story, its seed
    "A story that the house model writes while the site is built: the first that holds."
    import torch

    from gpt_nb.sampling import generate
    from gpt_nb.tales import Tales
    from gpt_nb.training import Run

    torch.set_num_threads(1)
    run, world = Run.open("tales-en"), Tales(level=2)
    model, tok = run.model.float().eval(), run.tok
    for seed in range(100):
        ids = generate(model, [tok.end_id], model.config.context - 1, stop=[tok.end_id], seed=seed)
        text = tok.decode([i for i in ids if i != tok.end_id])
        if world.check(text).story == 1: return text, str(seed)
    raise RuntimeError("no story of 100 by tales-en holds: was the house model changed?")


def draw_emergence(path: Path, ink: str, lang: str) -> None:
    "What emerges and in which order, from the committed measurement, on a clear background."
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from gpt_nb.tales import plot_fonts

    plot_fonts()
    grown, labels = results("emergence")["tales" if lang == "en" else "tales-zh"], LABELS[lang]
    painted = "text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"
    paint = dict.fromkeys(painted, ink)
    with plt.rc_context(paint | {"svg.fonttype": "path"}):
        fig, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        for (kind, color), label in zip(COLORS.items(), labels):
            band(ax, grown["runs"], kind, color, label)
        best = max(c["story"] for c in grown["counting"])
        ax.axhline(best, color=ink, ls="--", lw=1, label=labels[3])
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel=labels[4])
        ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
        ax.spines[["top", "right"]].set_visible(False)
        fig.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
        if path.suffix == ".svg": fig.savefig(path, transparent=True, metadata={"Date": None})
        else: fig.savefig(path, dpi=110)
        plt.close(fig)


def band(ax, runs: list[list[dict]], kind: str, color: str, label: str) -> None:
    "One share over the tokens read: the mean of several runs, from the lowest to the highest."
    points = [[look[kind] for look in looks] for looks in zip(*runs)]
    tokens = [look["tokens"] for look in runs[0]]
    low, high = [min(p) for p in points], [max(p) for p in points]
    ax.fill_between(tokens, low, high, color=color, alpha=0.25, lw=0)
    ax.plot(tokens, [sum(p) / len(p) for p in points], color=color, lw=2.2, label=label)


def growing(lang: str) -> str:
    "A slider through what one network wrote while it learned, with what the world says of it."
    from gpt_nb.tales import Tales

    label, good, between, said = SAID[lang]
    looks = results("emergence")["tales" if lang == "en" else "tales-zh"]["runs"][0]
    world, rows = Tales(lang), []
    for look in looks:
        verdict = between.join(world.check(look["sample"]).reasons[:2]) or good
        rows.append(f'<blockquote>{html.escape(look["sample"])}</blockquote>'
                    f'<p class="verdict">→ {html.escape(verdict)}</p>'
                    f'<p class="small">{said.format(**look)}</p>')
    tokens = dict(label=label, kind="range", values=[f"{look['tokens']:,}" for look in looks], at=0)
    return f'<div class="growing">{page(dict(controls=[tokens], frames=rows))}</div>'


def expectations(lang: str = "en") -> str:
    "What to expect: runs that were measured, one row each."
    head = EXPECTED[lang]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", demo_row()]
    rows += map(house_row, ("growing", "tales-short", "tales-en", "tales-zh", "tales-both",
                              "pydocs"))
    table = "\n".join(rows)
    return table if lang == "en" else in_chinese(table)


def in_chinese(table: str) -> str:
    "The words in the rows of `expectations`, and numbers counted in ten thousands."
    table = re.sub(r"([\d.]+) million", lambda m: f"{float(m[1]) * 100:g}&nbsp;万", table)
    words = ("2 cores", "双核"), ("1 thread", "单线程"), (" % and ", " % 和 "), (" MB", "&nbsp;MB")
    for english, chinese in words:
        table = table.replace(english, chinese)
    return table.replace("`: `", "`：`")


def demo_row() -> str:
    "From what README shows of the demo."
    text = (ROOT / "README.md").read_text("utf-8")
    loss, best = re.search(r"loss ([\d.]+) nats a word; no model .* than ([\d.]+):", text).groups()
    whole = re.search(r"(\d+)% of the stories hold", text)[1]
    run = "`tales`: `make demo` | 2 cores | 0.2 million | 3 | "
    return f"| {run} | {loss} ({best}) | {whole} % |"


def house_row(name: str) -> str:
    folder = ROOT / "gpt_nb" / "models" / name
    card = (folder / "README.md").read_text("utf-8")
    about = json.loads((folder / "training.json").read_text("utf-8"))
    size = int(re.search(r"([\d,]+) parameters", card)[1].replace(",", ""))
    best = f" ({about['floor']:.3f})" if about["floor"] else ""
    holds = " and ".join(f"{share} %" for share in re.findall(r"([\d.]+)% of whole stories", card))
    memory = training_memory(next(folder.glob("**/config.json")).parent, about["config"])
    run = f"`{about['options']['data']}`: `{name}` | 1 thread | {size / 1e6:.1f} million"
    took = f"{about['seconds'] / 60:.0f} | {memory:.0f} MB"
    return f"| {run} | {took} | {about['val_loss']:.3f}{best} | {holds} |"


def training_memory(folder: Path, config: dict) -> float:
    "MB that must lie in memory at once to train such a model, counted, not measured."
    import torch

    from gpt_nb.model import GPT
    from gpt_nb.pretrained import memory_needed

    model = GPT.from_pretrained(folder)
    needed = memory_needed(model.config, config["batch_size"], train=True, dtype=torch.float32)
    return sum(needed.values()) / 1e6


def glossary_page() -> str:
    "Every term in both languages, with the chapter that builds it."
    rows = [glossary_row(term) for term in glossary()]
    about = ("The words of this book, in English and in Chinese, each with the chapter that builds "
             "it. In the chapters a word links here where it first stands.")
    return f"# Glossary\n\n{about}\n\n" + "\n\n".join(rows) + "\n"


def glossary_row(term: Term) -> str:
    path = next(NBS.glob(f"{term.chapter}_*.ipynb"), None)
    where = f"[chapter {term.chapter}](notebooks/{path.name})" if path else "a planned chapter"
    chinese = '<span lang="zh-CN">{}</span>'.format
    return (f"({term.anchor})=\n**{term.name}** {chinese(term.chinese)}<br>"
            f"{term.meaning} ({where})<br>{chinese(term.chinese_meaning)}")


def write_home(chapters: list[Chapter]) -> None:
    "The pages made from templates: home and start, in two languages; the glossary."
    shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir(parents=True)
    for lang in LABELS:
        for theme, ink in (("light", "#222222"), ("dark", "#dddddd")):
            draw_emergence(MADE / f"emergence-{lang}-{theme}.svg", ink, lang)
    story, seed = house_story()
    text, both = (sum(c.minutes[i] for c in chapters) / 60 for i in (0, 1))
    fill = {"STORY": html.escape(story), "SEED": seed, "EXPECT": expectations(),
            "EXPECTZH": expectations("zh"),
            "GROWINGEN": growing("en"), "GROWINGZH": growing("zh"),
            "CHAPTERS": chapter_table(chapters), "CHINESE": chinese_chapters(chapters),
            "TOC": toctrees(chapters), "HOURSTEXT": f"{text:.0f}", "HOURS": f"{both:.0f}"}
    for template in HERE.glob("*.template.md"):
        made = re.sub(r"@([A-Z]+)@", lambda m: fill[m[1]], template.read_text("utf-8"))
        (HERE / template.name.replace(".template", "")).write_text(made, "utf-8")
    (HERE / "glossary.md").write_text(glossary_page(), "utf-8")


def toctrees(chapters: list[Chapter]) -> str:
    "The sidebar: one list a part."
    trees = []
    for part in PARTS:
        own = [c for c in chapters if part_of(c.number) == part]
        lines = "\n".join(f"{c.number} {c.head[0]} <notebooks/{c.stem}>" for c in own)
        head = f"```{{toctree}}\n:hidden:\n:caption: {part.title}\n\n"
        if own: trees.append(f"{head}{lines}\n```")
    return "\n\n".join(trees)
