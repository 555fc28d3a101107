"How long it takes to import the model beside torch alone, and until the command line answers."
import os
import subprocess
import sys
from collections.abc import Iterator

from frame import Options, in_turn, row

HELP = "import sys; from gpt_nb.cli import main; sys.argv = ['gpt-nb', '--help']; main()"
CODE = {"nothing": "pass", "torch": "import torch", "model": "import gpt_nb.model", "help": HELP}


def start(code: str) -> None:
    "A new Python that runs this and ends. What the first one compiles is kept, as anywhere."
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=env)


def rows(options: Options) -> Iterator[dict]:
    "Importing `gpt_nb.model` and `gpt-nb --help`."
    ways = {name: lambda code=code: start(code) for name, code in CODE.items()}
    seconds = {name: times.cpu for name, times in in_turn(ways, options.rounds).items()}
    more = seconds["model"] - seconds["torch"]
    yield row("import gpt_nb.model", "s", seconds["model"], seconds["torch"], "import torch",
              limit=seconds["torch"], goal=seconds["torch"] / (seconds["torch"] + 0.05),
              threads=1, note=f"{more:.2f} s of the processor more than torch; the goal is 0.05")
    yield row("gpt-nb --help", "s", seconds["help"], limit=seconds["nothing"], goal=0.3,
              threads=1, note="no peer; the limit is a Python that does nothing, the goal 0.3 s")
