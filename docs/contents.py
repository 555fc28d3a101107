"The table of contents: parts of the book, and the chapters that are planned but not built yet."
from typing import NamedTuple


class Part(NamedTuple):
    title: str
    chinese: str
    first: str   # number of its first chapter


class Planned(NamedTuple):
    title: str
    promise: str
    chinese: str


PARTS = [
    Part("Guess the next word", "猜下一个词", "00"),
    Part("The GPT", "GPT 本身", "05"),
    Part("What it knows", "它知道什么", "11"),
    Part("Put it to work", "派上用场", "14"),
    Part("Smaller, bigger, faster", "更小、更大、更快", "18"),
]
PLANNED = {
    "18": Planned("Compression", "Fewer bits, fewer weights: what it costs.", "模型压缩"),
    "20": Planned("Images", "Next-token prediction on pixels.", "图像"),
}


def part_of(number: str) -> Part:
    "The part a chapter stands in."
    return [part for part in PARTS if part.first <= number][-1]
