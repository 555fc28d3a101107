"""Damaged and hostile files for every reader, and what is said of each.

An input is a folder of files. Half of them are drawn by hypothesis from whole ones (values of other
types, huge numbers, keys missing or twice, deep nesting), half are whole files with bytes cut,
turned and moved. A reader may give an answer, which is checked where the truth is known, or raise a
ValueError or OSError of one line that names the folder. All else is a fault: another error, too
much time or memory, a crash, a write outside the folder, a program started, a look at the network.

Inputs come in chunks; what a chunk holds hangs on its number alone, so that a fault can be made
again. A chunk runs in a child process, which may be killed."""
import contextlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CHUNK = 500                          # inputs, where all are drawn
MEMORY = 2**30                       # bytes that a reader may take beside what is loaded
SECONDS = 10                         # of one core for one input
PATIENCE = 120                       # of wall time, on a machine that does other work
LONGEST = 1000                       # characters of an error


@dataclass
class Reader:
    "Something that opens files of others."
    files: Callable[[], list[dict[str, bytes]]]     # whole folders to begin with: name -> bytes
    read: Callable[[Path], object]                  # opens a folder
    structures: Callable                            # of whole folders: a strategy of others
    right: Callable = lambda answer, folder: None   # raises AssertionError where an answer is wrong
    named: bool = True                              # whether errors name the folder
    bytes_too: bool = True                          # whether bytes of its files are damaged


# ------------------------------------------------------------------------------- drawing structures

class Raw(str):
    "A piece of JSON as it is written."


class Pairs(list):
    "An object by its pairs, in which a key may stand twice."


def to_json(x) -> str:
    "JSON, with whatever stands in it as `Raw` and `Pairs`."
    if isinstance(x, Raw): return str(x)
    if isinstance(x, dict): x = Pairs(x.items())
    if isinstance(x, Pairs):
        return "{%s}" % ", ".join(f"{json.dumps(k)}: {to_json(v)}" for k, v in x)
    if isinstance(x, list): return "[%s]" % ", ".join(map(to_json, x))
    return json.dumps(x)


ODD = [None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64,
       10**15, 10**30, -2**63, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, "", " ", "a", "\0", "\n",
       "\ud800", "\u202e", "é", "e\u0301", "ﬁ", "今", "🙂", "NaN", "1", "null", "../../x",
       "/etc/passwd", "x" * 3000,
       "<|end|>", "\x1b[31m", [], {}, [[]], [None], [1, 2], ["a"], {"a": 1}, {"": None}]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "1" * 5000, "-0", "1.0", "01",
       "", "'a'", "nul", "[" * 3000, "[" * 3000 + "]" * 3000, "[" * 400 + "]" * 400,
       "[" * 900 + "]" * 900,
       '{"a":' * 300 + "1" + "}" * 300, '{"a":' * 2000 + "1" + "}" * 2000,
       "[" * 100_000, '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"', "// a", "1 2", "\ufeff1"]
VALUES = st.one_of(
    st.sampled_from(ODD), st.sampled_from(RAW).map(Raw), st.integers(-4, 300), st.integers(),
    st.floats(), st.text(max_size=8), st.lists(st.integers(-2, 9), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(-2, 9), max_size=3))


def walk(draw, x) -> tuple[object, object]:
    "A random place: what holds it, and its key or number there."
    holder, key = None, None
    while isinstance(x, (dict, list)) and x and not isinstance(x, Pairs):
        keys = list(x) if isinstance(x, dict) else range(len(x))
        holder, key = x, keys[draw(st.integers(0, len(keys) - 1))]
        x = x[key]
        if draw(st.integers(0, 2)) == 0: break
    return holder, key


def twice(x: dict, key, value) -> Pairs:
    "An object whose key stands twice, with two values."
    return Pairs([*x.items(), (key, value)])


def change(draw, x):
    "One place of some JSON changed."
    holder, key = walk(draw, x)
    if holder is None: return draw(VALUES)
    what = draw(st.sampled_from(["value"] * 4 + ["gone", "twice", "new", "other", "deeper"]))
    if what == "value": holder[key] = draw(VALUES)
    if what == "gone": del holder[key]
    if what == "deeper": holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
    if what == "other":
        theirs, at = walk(draw, x)
        if theirs is not None: holder[key] = deepcopy(theirs[at])
    if what == "new" and isinstance(holder, dict):
        name = st.text(max_size=5) | st.sampled_from(list(holder)).map(str.upper)
        holder[draw(name)] = draw(VALUES)
    if what == "new" and isinstance(holder, list): holder.insert(key, draw(VALUES))
    if what == "twice" and isinstance(holder, dict):
        holder[key] = twice(holder, key, draw(VALUES)) if holder is x else holder[key]
        return twice(x, key, draw(VALUES)) if holder is x else x
    return x


@st.composite
def broken(draw, whole) -> str:
    "JSON with up to four places changed."
    x = deepcopy(whole)
    for _ in range(draw(st.integers(0, 4))):
        if not isinstance(x, (dict, list)) or isinstance(x, Pairs): break
        x = change(draw, x)
    return to_json(x)


def broken_files(*names: str):
    "A strategy over folders in which these JSON files are changed."
    @st.composite
    def strategy(draw, wholes):
        files = dict(draw(st.sampled_from(wholes)))
        name = draw(st.sampled_from([name for name in names if name in files]))
        files[name] = draw(broken(json.loads(files[name]))).encode("utf-8", "surrogatepass")
        return files
    return strategy


# ----------------------------------------------------------------------------------- damaging bytes

BITS = [b"\0", b"\xff", b"\xff" * 8, b"\0" * 64, b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"\n",
        b"\r",
        b"\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"-", b"e9", b"9" * 20,
        b"NaN", b"\x7f" + b"\xff" * 7, b"PAR1", b"\xc3", b"\x1b[31m", b"1e999"]


def damage(rng: random.Random, data: bytes) -> bytes:
    "Bytes cut, turned, moved, put in."
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        place = rng.randrange(len(data) + 1)
        if rng.random() < 0.3: place = min(place, rng.randrange(300))            # headers
        length = rng.choice([1, 1, 2, 4, 8, 64, 1000])
        match rng.randrange(8):
            case 0: del data[place:]
            case 1: del data[place:place + length]
            case 2: data[place:place + length] = rng.randbytes(length)
            case 3: data[place:place] = rng.choice(BITS)
            case 4: data[place:place] = data[place:place + length] * rng.choice([1, 2, 50])
            case 5: data[place:place + 1] = bytes([rng.randrange(256)])
            case 6:
                for i in range(place, min(place + 1, len(data))): data[i] ^= 1 << rng.randrange(8)
            case 7:
                other = rng.randrange(len(data) + 1)
                data[place:place + length] = data[other:other + length]
    return bytes(data)


def damaged(rng: random.Random, wholes: list[dict[str, bytes]]) -> dict[str, bytes]:
    "A folder with one file damaged, seldom two, or one gone."
    files = dict(rng.choice(wholes))
    for name in rng.sample(sorted(files), min(len(files), rng.choice([1, 1, 1, 2]))):
        files[name] = damage(rng, files[name])
    if rng.random() < 0.02: del files[rng.choice(sorted(files))]
    return files


def inputs(reader: Reader, chunk: int, size: int, see: Callable[[dict[str, bytes]], None]) -> None:
    "Show `see` all folders of a chunk, whose number and size say which these are."
    wholes = reader.files()
    if reader.bytes_too and chunk % 2:
        rng = random.Random(chunk)
        for _ in range(size): see(damaged(rng, wholes))
        return

    @seed(chunk)
    @settings(max_examples=size, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(reader.structures(wholes))
    def draw(files): see(files)
    draw()


# ------------------------------------------------------------------------------------------ judging

WATCHED = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1,
           "os.link": 2, "os.symlink": 2, "os.chmod": 1, "shutil.rmtree": 1}
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
             "socket.connect", "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen")
FOR_A_GPU = ("libnvidia-ml.so.1",)     # torch looks for one, each time it is asked
watching: list = []                  # [the folder, what was done] while a reader is at work


def watch(event: str, given: tuple) -> None:
    "Note what a reader does outside its folder."
    if not watching: return
    folder, done = watching
    if event in FORBIDDEN and given != FOR_A_GPU: done.append(f"{event} {given!r:.200}")
    paths = given[:WATCHED.get(event, 0)]
    if event in ("os.remove", "os.rmdir") and given[1] != -1: paths = ()   # inside an open folder
    if event == "open":
        path, mode, flags = given
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        paths = [path] if writes and isinstance(path, (str, bytes, os.PathLike)) else []
    for path in paths:
        if isinstance(path, int): continue
        where = os.path.abspath(os.fsdecode(path))
        if not where.startswith((folder, "/dev/")): done.append(f"{event} {where}")


def fault_of(error: BaseException, folder: Path, reader: Reader) -> str | None:
    "What is wrong with an error."
    said, kind = str(error), type(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{kind.__module__}.{kind.__name__} at {Path(last.filename).name}:{last.name}"
    if isinstance(error, AssertionError): return f"wrong answer: {said:.300}"
    clear = isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError)
    if not clear: return f"raised {where}"
    if len(said.strip().splitlines()) != 1: return f"not one line: {where}"
    if len(said) > LONGEST: return f"{len(said)} characters: {where}"
    if reader.named and str(folder) not in said: return f"names no file: {where}"
    return None


def judge(reader: Reader, files: dict[str, bytes], folder: Path) -> tuple[str, str | None]:
    "How a reader answers ('answer' or 'error'), and the fault, if there is one."
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = []
    watching[:] = [str(folder), done]
    try:
        answer = reader.read(folder)
        watching.clear()
        reader.right(answer, folder)
        kind, fault = "answer", None
    except BaseException as error:
        watching.clear()
        if isinstance(error, KeyboardInterrupt): raise
        kind, fault = "error", fault_of(error, folder, reader)
    if done: fault = fault or f"did {done[0]}"
    return kind, fault


# -------------------------------------------------------------------------- children and reports

@dataclass
class Report:
    "What came of some inputs."
    inputs: int = 0
    answers: int = 0                 # the rest were errors
    seconds: float = 0.0             # of processor time
    slowest: float = 0.0             # of one input
    megabytes: float = 0.0           # the most that was taken beside what was loaded
    faults: list = field(default_factory=list)   # [chunk, number, what], one of each kind

    def add(self, other: "Report") -> None:
        "Put two together."
        self.inputs, self.answers = self.inputs + other.inputs, self.answers + other.answers
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.megabytes = max(self.megabytes, other.megabytes)
        known = {what for *_, what in self.faults}
        self.faults += [fault for fault in other.faults if fault[2] not in known]


def peak() -> float:
    "Megabytes that this process has held at most."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_memory() -> None:
    "So much more address space and no more."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def work(name: str, chunk: int, size: int, skip: int, pipe, keep: str | None) -> None:
    "In a child: the inputs of a chunk from `skip` on; each is announced before it is read."
    import readers
    reader = readers.READERS[name]
    sys.stderr = open(os.devnull, "w")
    os.dup2(sys.stderr.fileno(), 2)                       # what libraries say of their panics
    top = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    report, number = Report(), -1
    readers.prepare(name)
    for i, files in enumerate(reader.files()): judge(reader, files, top / f"whole{i}")   # imports
    limit_memory()
    sys.addaudithook(watch)
    before = peak()

    def see(files):
        nonlocal number
        number += 1
        if number < skip: return
        folder = top / "here"
        pipe.send(("begins", number))
        start = time.process_time()
        kind, fault = judge(reader, files, folder)
        took = time.process_time() - start
        if took > SECONDS: fault = fault or f"took {took:.0f} seconds"
        report.inputs, report.answers = report.inputs + 1, report.answers + (kind == "answer")
        report.seconds, report.slowest = report.seconds + took, max(report.slowest, took)
        if fault and fault not in {what for *_, what in report.faults}:
            report.faults.append([chunk, number, fault])
            if keep: shutil.copytree(folder, Path(keep) / f"{name}-{chunk}-{number}",
                                     dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    try: inputs(reader, chunk, size, see)
    finally: shutil.rmtree(top, ignore_errors=True)
    report.megabytes = max(0.0, peak() - before)
    pipe.send(("ends", report))


def cpu_of(pid: int) -> float:
    "Seconds of processor time of a process."
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def follow(child, pipe) -> tuple[int, Report | str]:
    "The last input that a child began, and its report, or why there is none."
    number, cpu, wall = -1, 0.0, time.monotonic()
    while True:
        try:
            if pipe.poll(1):
                kind, held = pipe.recv()
                if kind == "ends": return number, held
                number, cpu, wall = held, cpu_of(child.pid), time.monotonic()
                continue
        except EOFError:
            child.join()
            return number, f"crashed with exit code {child.exitcode}"
        late = cpu_of(child.pid) - cpu > SECONDS or time.monotonic() - wall > PATIENCE
        if number >= 0 and late:
            child.kill()
            child.join()
            return number, "hung"


def run_chunk(name: str, chunk: int, size: int = CHUNK, keep: str | None = None) -> Report:
    "All inputs of a chunk, in as many children as it takes."
    total, skip = Report(), 0
    context = get_context("forkserver")
    context.set_forkserver_preload(["readers"])          # a child need not import it
    here, paths = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths: os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, paths)])
    while skip < size:
        ours, theirs = context.Pipe(duplex=False)
        given = name, chunk, size, skip, theirs, keep
        child = context.Process(target=work, args=given, daemon=True)
        child.start()
        theirs.close()
        number, end = follow(child, ours)
        if number < 0 and not isinstance(end, Report): raise RuntimeError(f"{name} at once {end}")
        if isinstance(end, Report):
            total.add(end)
            child.join()
            return total
        total.add(Report(inputs=max(0, number + 1 - skip), faults=[[chunk, number, end]]))
        skip = max(number, skip) + 1
    return total


def again(name: str, chunk: int, number: int, folder: str, size: int = CHUNK) -> None:
    "Write one input to look at: python tests/fuzzing.py NAME CHUNK NUMBER FOLDER."
    import readers
    reader, seen = readers.READERS[name], iter(range(10**9))

    def see(files):
        if next(seen) == number: print(judge(reader, files, Path(folder).resolve()))
    inputs(reader, chunk, size, see)


if __name__ == "__main__": again(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
