"""Cut the package's font from Noto Sans CJK SC: `python tools/font.py NotoSansCJK-Regular.ttc`.

Debian's package fonts-noto-cjk has that file. gpt_nb/fonts/chinese.otf keeps the 3,755 most usual
characters (the first level of the standard GB 2312) and whatever else the project shows."""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FONT = ROOT / "gpt_nb" / "fonts" / "chinese.otf"
NAME = "gpt_nb Chinese"   # not Noto: a name of its own, so that nothing else is taken for it
SHOWN = ("nbs/*.ipynb", "nbs/results/*.json", "docs/*.md", "docs/*.py", "docs/*.tsv", "docs/zh/*",
         "docs/_static/*.*s", "docs/frames/*.json", "gpt_nb/*.py", "gpt_nb/models/*/tokenizer.json",
         "gpt_nb/web/*.*s", "*.md")
NEWER = {"鿼"}   # younger than the font; 01 tells of it, and no picture shows it


def is_chinese(char: str) -> bool:
    "Ideographs, and the punctuation and wide letters that go with them."
    blocks = ("\u3000", "\u303f"), ("\u3400", "\u9fff"), ("\uff00", "\uffef")
    return any(first <= char <= last for first, last in blocks)


def used() -> dict[str, str]:
    "The Chinese characters that the project shows, each with a file it stands in."
    found = {}
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern)):
        text = path.read_text("utf-8")
        if path.suffix in (".ipynb", ".json"):   # undo \u escapes
            text = json.dumps(json.loads(text), ensure_ascii=False)
        found |= {char: str(path.relative_to(ROOT)) for char in set(text) if is_chinese(char)}
    return found


def usual() -> set[str]:
    "GB 2312's rows 16 to 55, Latin letters, Chinese punctuation."
    places = [(row + 0xA0, cell + 0xA0) for row in range(16, 56) for cell in range(1, 95)]
    ideographs = {bytes(place).decode("gb2312", "ignore") for place in places} - {""}
    others = *range(0x20, 0x7F), *range(0x3001, 0x3020), *range(0xFF01, 0xFF5F)
    return ideographs | set(map(chr, others))


def characters(path: Path) -> set[str]:
    "What a font can draw."
    from fontTools.ttLib import TTFont

    with TTFont(path) as font: return set(map(chr, font.getBestCmap()))


def cut(font, chars: set[str]) -> None:
    "Leave in a font what draws these characters side by side: no hints, nothing for vertical text."
    from fontTools import subset

    options = subset.Options(hinting=False, desubroutinize=True, notdef_outline=True)
    options.layout_features = options.layout_scripts = []
    options.drop_tables += ["BASE", "GPOS", "GSUB", "VORG", "vhea", "vmtx"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=map(ord, chars))
    subsetter.subset(font)


def rename(font) -> None:
    "A font that was changed goes by another name; copyright and licence stay."
    names = {1: NAME, 2: "Regular", 3: f"{NAME} 2.004", 4: NAME, 5: "Version 2.004"}
    names[6] = "gpt_nb-Chinese"   # as PostScript wants it, without blanks
    kept = 0, 7, 13, 14   # copyright, trademark, licence and its address
    font["name"].names = [r for r in font["name"].names if r.nameID in kept and r.platformID == 3]
    for key, text in names.items(): font["name"].setName(text, key, 3, 1, 0x409)
    cff = font["CFF "].cff
    cff.fontNames = [names[6]]
    cff.topDictIndex[0].FullName = cff.topDictIndex[0].FamilyName = NAME


def write_web_font(target: Path) -> None:
    "What the pages of the site use of the package's font; a character it lacks is an error."
    from fontTools.ttLib import TTFont

    shown = used()
    if missing := shown.keys() - characters(FONT) - NEWER:
        where = {char: shown[char] for char in missing}
        raise ValueError(f"not in {FONT.name}, cut it anew: {where}")
    font = TTFont(FONT, recalcTimestamp=False)
    cut(font, shown.keys() - NEWER)
    font.flavor = "woff"
    font.save(target)


def main(source: str) -> None:
    from fontTools.ttLib import TTFont

    font = TTFont(source, fontNumber=2, recalcTimestamp=False)   # the third of the collection
    name = font["name"].getDebugName(1)
    if name != "Noto Sans CJK SC": raise ValueError(f"{source} is {name}, not Noto Sans CJK SC")
    cut(font, usual() | used().keys())
    rename(font)
    font.save(FONT)
    print(f"{FONT.name}: {len(characters(FONT))} characters, {FONT.stat().st_size // 1000} kB")


if __name__ == "__main__": main(*sys.argv[1:])
