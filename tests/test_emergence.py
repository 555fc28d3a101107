"What holds of stories and of Python source, as a model writes them."
import time

import pytest
import torch

from gpt_nb.emergence import (
    PythonHolds, balanced, check_python, functions, share_that_holds, unknown_names,
    write_functions, write_stories)
from gpt_nb.evaluation import Truth
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import CharTokenizer


def test_what_holds():
    world = Tales("zh")
    assert share_that_holds(world, world.texts(20)) == (1, 1, 1, 1)
    assert share_that_holds(world, ["", "asdf"]).story == 0


def test_stories_of_an_untrained_model_are_judged(small):
    tok, _, model = small
    texts = write_stories(model, tok, 3, seed=1)
    assert texts == write_stories(model, tok, 3, seed=1)
    assert len(set(texts)) == 3
    assert share_that_holds(Tales(), texts).story == 0


def test_odd_sizes_are_named(small):
    tok, _, model = small
    with pytest.raises(ValueError, match="n is -1"): write_stories(model, tok, -1)
    with pytest.raises(ValueError, match="shorten"):
        write_stories(model, tok, 1, prompt="a long way " * 200)
    for texts in ([], "one text"):
        with pytest.raises(ValueError, match="list of at least one"):
            share_that_holds(Tales(), texts)
    assert write_stories(model, tok, 0) == []


def test_more_stories_than_a_batch_are_told(small):
    tok, _, model = small
    two = write_stories(model, tok, 2, seed=4, batch_size=1)
    assert two[:1] == write_stories(model, tok, 1, seed=4)


@pytest.mark.parametrize("source, unknown", [
    ("def f(a, *b, c=1, **d): return [x for x in a if x], b, c, d", set()),
    ("def f():\n    return len(y)", {"y"}),
    ("lambda q: q + w", {"w"}),
    ("def f():\n    global g\n    import os as g\ndef h(): return g", set()),
    ("from math import *\nprint(sqrt(2))", set()),
    ("class A(B):\n    x = 1\n    def f(self): return __class__", {"B"}),
    ("try: pass\nexcept E as e: print(e)", {"E"}),
    ("if (n := 3) > 2: print(n)", set()),
    ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2\n    return g", set()),
    ("match a:\n    case [b, *c]: print(b, c)", {"a"}),
    ("@d\nasync def f():\n    async with a as b: await b", {"d", "a"}),
    ("re.compile(__file__)", set())])
def test_unknown_names(source, unknown):
    assert unknown_names(source) == unknown and check_python(source) == (1, 1, not unknown)


@pytest.mark.parametrize("source, holds", [
    ("x = 'a\\\r\nb'\n", True),
    ('x = "(" # (', True),
    ("x = \'\'\'a\"(\'\'\'", True),
    ("x = (1, [2, {3: 4}])", True),
    ("x = (1, [2)]", False),
    ("x = )(", False),
    ('x = "a', False),
    ("x = r'\\'", False),
    ("x = \'\'\'abc'", False),
    ("x = '' \"\" '# ['  # it's (", True)])
def test_balanced(source, holds): assert balanced(source) == holds


@pytest.mark.parametrize("part", ['"\\', "'''a\n", '"""\\', "'", "'abc\n", "("])
def test_a_megabyte_is_judged_in_a_moment(part):
    "Each quote that is never closed used to be followed to the end of the text."
    begin = time.process_time()
    assert not balanced(part * (1_000_001 // len(part) | 1))
    assert time.process_time() - begin < 10


def test_checking_python_survives_depth_and_rubbish():
    deep = ["a" + ".b" * 5000, "(" * 5000]
    rubbish = ["\0", "def f(a, a): pass", "nonlocal q", "\ud800"]
    for source in deep + rubbish:
        assert check_python(source).parses in (0, 1)


def test_functions_are_cut_out_whole():
    f = "def f(\n    a,\n):\n    return a"
    g = "def g(a=[\n    1,\n]):\n    return 1\n# why\n    return 2"
    source = f"import x\n\n{f}\n\n\n{g}\n@d\ndef h():\n    return 2"
    assert functions(source) == [f, g]
    assert functions(f + "\n") == [] and functions("") == []
    odd = "def f():\n    return 'a\u2028b\x85c\x0cd'"           # no ends of lines to Python
    assert functions(odd + "\nend") == [odd] == functions(odd.replace("\n", "\r\n") + "\r\nend")


def test_rivals_do_not_write(small):
    from gpt_nb.evaluation import rungs
    tok, _, _ = small
    make, _ = rungs(tok.vocab_size, 50, tok.end_id)["bigram network"]
    for model in (make(), Truth(Tales(), tok, 50)):
        with pytest.raises(TypeError, match="evaluated"): write_stories(model, tok, 1)


def test_functions_are_written_from_the_margin(small):
    "What a model writes after `def` is judged whole; an untrained one writes nothing that holds."
    tok, _, model = small
    written = write_functions(model, tok, 5, seed=0)
    assert written == write_functions(model, tok, 5, seed=0)
    assert all(f.startswith("def") for f in written)
    assert write_functions(model, tok, 0) == []
    with pytest.raises(ValueError, match="n is -1"): write_functions(model, tok, -1)
    assert check_python("def double(x):\n    return 2 * x") == PythonHolds(1, 1, 1)


def test_ids_without_a_token_are_no_text():
    "A model may have more rows than its tokenizer has tokens."
    tok = CharTokenizer.train(["ab"])
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_depth(1, tok.vocab_size + 20, 16, eos_token_id=tok.end_id)).eval()
    for text in write_stories(model, tok, 5, seed=0): assert set(text) <= set("ab")
