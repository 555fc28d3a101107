"The pages of the site, made from the notebooks. conf.py calls `write_pages`."
import re
import shutil
from pathlib import Path

from chapters import GITHUB, HERE, NBS, Chapter, cfg, publish, publish_plain, write_notebook
from home import write_home
from howto import write_howto
from reference import built_in, reference_index, reference_page

__all__ = ["built_in", "cfg", "llms", "write_pages"]
TEXTS = ("pydocs", "pycode")   # in prose these names mean the texts, not the functions
PLAIN = ("claims", "programs", "speed", "promises")   # notebooks that are no chapters


def write_use(target: Path) -> None:
    "README's text as a page of its own, without its picture and its table of chapters."
    from readme import markdown

    text = markdown(NBS / "index.ipynb")
    text = re.sub(r"^## Chapters\n.*?(?=^## )", "", text, flags=re.M | re.S)
    text = re.sub(r"^!\[.*\n", "", text, flags=re.M)
    text = text.replace("](nbs/", "](notebooks/")
    text = re.sub(r"\]\((CONTRIBUTING\.md|LICENSE)\)", rf"]({GITHUB}/\1)", text)
    target.write_text(re.sub(r"\A# .*", "# Use it", text), "utf-8")


def llms(chapters: list[Chapter]) -> str:
    "The site for programs that read (llmstxt.org): what there is and where."
    base = cfg["doc_host"] + cfg["doc_baseurl"]
    raw = GITHUB.replace("//github.com/", "//raw.githubusercontent.com/").replace("/blob/", "/")
    about = (f"> {cfg['description']}: numbered Jupyter notebooks build it and are exported "
             "into the Python package `gpt_nb`.")
    lines = [f"# {cfg['title']}", "", about, "", "## Chapters", ""]
    lines += [f"- [{c.number} {c.head[0]}]({raw}/nbs/{c.path.name}): {c.head[1]}" for c in chapters]
    lines += ["", "## Jobs", "", f"- [How do I ...?]({raw}/nbs/howto.ipynb): one block for each"]
    lines += ["", "## Modules", ""]
    for c in chapters:
        lines.append(f"- [{c.module}]({base}/reference/{c.stem}.html): {', '.join(c.public)}")
    lines += ["", "## Optional", "",
              f"- [README]({raw}/README.md)", f"- [Glossary]({base}/glossary.html)",
              f"- [What popular articles get wrong]({base}/notebooks/claims.html)",
              f"- [The programs that articles print]({base}/notebooks/programs.html)",
              f"- [Speed, and how cost grows]({base}/notebooks/speed.html)",
              f"- [What we promise, and how it is tested]({base}/notebooks/promises.html)", ""]
    return "\n".join(lines)


def write_pages() -> list[Chapter]:
    "All of it, into docs/."
    chapters = [Chapter(path) for path in sorted(NBS.glob("[0-9][0-9]*_*.ipynb"))]
    public = {name: f"{c.module}.{name}" for c in chapters for name in c.public}
    for name in TEXTS: public.pop(name, None)
    for folder in ("notebooks", "reference"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for c in chapters:
        write_notebook(publish(c, public), c.path, HERE / "notebooks" / c.path.name)
        (HERE / "reference" / f"{c.stem}.md").write_text(reference_page(c), "utf-8")
    for name in PLAIN:
        path = NBS / f"{name}.ipynb"
        write_notebook(publish_plain(path, public), path, HERE / "notebooks" / path.name)
    write_howto(HERE / "notebooks", public)
    (HERE / "reference" / "index.md").write_text(reference_index(chapters), "utf-8")
    write_home(chapters)
    write_use(HERE / "use.md")
    return chapters
