"The reference: every public name of a module, from its docstrings and docments."
import io
import re
import tokenize
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType

from chapters import ROOT, Chapter, built_label

METHODS = FunctionType, classmethod, staticmethod, property, cached_property


def comment_on(path: Path) -> dict[str, str]:
    "The comment at the end of a line that gives a name its value."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type != tokenize.COMMENT: continue
        match = re.match(r"([A-Z]\w*) = ", token.line)
        if match: found.setdefault(match[1], token.string.lstrip("# "))
    return found


def entry(chapter: Chapter, name: str, remark: str) -> str:
    "One public name, for autodoc."
    thing = getattr(import_module(chapter.module), name)
    full = f"{chapter.module}.{name}"
    if isinstance(thing, type):
        methods = [key for key, value in vars(thing).items()
                   if key[0] != "_" and isinstance(value, METHODS)]
        members = f"   :members: {', '.join(methods)}\n   :undoc-members:\n" if methods else ""
        return f".. autoclass:: {full}\n{members}"
    made_here = getattr(thing, "__module__", "") == chapter.module   # not so of a type alias
    if callable(thing) and made_here: return f".. autofunction:: {full}\n"
    value = " ".join(repr(thing).split())
    if len(value) >= 80: value = value[:77] + "..."
    remark = remark[:1].upper() + remark[1:]
    head = f".. py:data:: {name}\n   :value: {value}"
    return f"{head}\n\n   {remark}\n\n   {built_in(chapter, name)}\n"


def reference_page(chapter: Chapter) -> str:
    remarks = comment_on(ROOT / f"{chapter.module.replace('.', '/')}.py")
    body = "\n".join(entry(chapter, name, remarks.get(name, "")) for name in chapter.public)
    title, promise = chapter.head
    link = f"[chapter {chapter.number}, {title}](../notebooks/{chapter.stem}.ipynb)"
    return (f"# {chapter.module}\n\n> {promise}\n\nBuilt in {link}.\n\n"
            f"```{{eval-rst}}\n.. py:module:: {chapter.module}\n\n{body}\n```\n")


def built_in(chapter: Chapter, name: str) -> str:
    "A link from the reference to the cell that builds a name."
    full = f"{chapter.module}.{name}"
    if full not in chapter.built: return ""
    heading = re.sub(r"[`*|\\<>]", "", chapter.built[full])
    label = built_label(chapter.module, name)
    return f"Built in :ref:`chapter {chapter.number}, {heading} <{label}>`."


def reference_index(chapters: list[Chapter]) -> str:
    toc = "\n".join(c.stem for c in chapters)
    return ("# Reference\n\nEvery public name, from the comments and docstrings of the code. "
            "`from gpt_nb.all import *` gives them all.\n\n"
            f"```{{toctree}}\n:maxdepth: 2\n\n{toc}\n```\n")
