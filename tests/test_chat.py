"Chat: templates beside `transformers`, what a person types, masks, packing, files, bad input."
import json
import re
from itertools import cycle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt_nb.chat as chat
from gpt_nb.chat import (CHATML, MARKS, answers_in, apply_chat_template, as_messages_of, chat_row,
                         chat_rows, coverage, dialogue, for_chat, judge, learned_text, pack_rows,
                         packed_logits, replies, talk, with_special)
from gpt_nb.checkpoint import load_tokenizer, save_tokenizer
from gpt_nb.finetuning import assess, examples_of, finetune
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from gpt_nb.training import Run

# in the manner of Llama 3: headers, a first token, trimmed contents
HEADERS = r"""
{%- set loop_messages = messages %}
{%- for message in loop_messages %}
    {%- set content = '<|start|>' + message['role'] + '<|stop|>\n\n'
                      + message['content'] | trim + '<|eot|>' %}
    {%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"""
# in the manner of Qwen3: a namespace, a loop backwards, methods of texts, a choice of the caller
THINKING = r"""
{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.open and message.role == "user" and not message.content.startswith('<note>') %}
        {%- set ns.open = false %}{% set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last and thought %}
        {{- '<think>\n' + thought + '\n</think>\n\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
# the rest of what templates use: a macro, break and continue, JSON, blocks that are trimmed
ODDS = r"""{% macro line(m) %}
[{{ m.role | upper }}] {{ m.content | tojson }}{% endmacro %}
{% for m in messages %}
    {% if m.role == 'system' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {{ line(m) }}
    {%- generation %} {{ {"a": [1, none]} | tojson(indent=1) }}{% endgeneration %}
{% endfor %}
{{ eos_token }}{{ nobody_gave_this }}{# a comment #}
"""
TEMPLATES = dict(chatml=CHATML, headers=HEADERS, thinking=THINKING, odds=ODDS)
NAMES = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>"]


@pytest.fixture(scope="module")
def tok():
    return with_special(load_tokenizer("tales-short"), NAMES)


def with_template(tok, template):
    tok = with_special(tok, [])
    tok.config |= dict(chat_template=template, eos_token="<|eot|>" if template == HEADERS
                       else "<|im_end|>")
    return tok


def talk_of(contents, system=False):
    roles = cycle(["user", "assistant"])
    messages = [dict(role="system", content=contents[0])] if system else []
    return messages + [dict(role=role, content=text)
                       for role, text in zip(roles, contents[len(messages):])]


PIECES = st.sampled_from(["Hi", "\n", " ", "米娅", "</think>", "<think>", "<|im_", "end|>", "<",
                          "|", ">", "kite", "。", "<note>", "{{", "%}", "é", "'", "\t", "im_end"])
CONTENT = st.lists(PIECES, min_size=1, max_size=6).map("".join).filter(str.strip)


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_as_transformers(tok, tmp_path_factory, name):
    transformers = pytest.importorskip("transformers")
    mine, folder = with_template(tok, TEMPLATES[name]), tmp_path_factory.mktemp(name)
    save_tokenizer(mine, folder, mine.end_id)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.chat_template == TEMPLATES[name]
    again = load_tokenizer(folder)

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(CONTENT, min_size=2, max_size=6), st.booleans(), st.booleans())
    def check(contents, system, thinks):
        messages = talk_of(contents, system)
        if any(special in text for text in contents for special in mine.special_tokens): return
        asks, more = messages[-1]["role"] == "user", {} if thinks else dict(enable_thinking=False)
        ids = apply_chat_template(again, messages, asks, **more)
        assert ids == theirs.apply_chat_template(messages, add_generation_prompt=asks,
                                                 return_dict=False, **more)

    check()


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_typed_stays_text(tok, name):
    mine = with_template(tok, TEMPLATES[name])
    special = set(mine.special_tokens.values())
    sly = st.lists(PIECES | st.sampled_from([*NAMES, "<|end|>", "\U000f0000"]), min_size=1,
                   max_size=6).map("".join).filter(str.strip)

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(sly, min_size=2, max_size=5))
    def check(contents):
        messages = talk_of(contents)
        asks = messages[-1]["role"] == "user"
        ids = apply_chat_template(mine, messages, asks)
        told = dict(messages=messages, add_generation_prompt=asks, **chat.special_names(mine))
        assert mine.decode(ids) == chat.sandbox().from_string(TEMPLATES[name]).render(**told)
        tame = talk_of(["x"] * len(contents))
        plain = apply_chat_template(mine, tame, asks)
        assert [i for i in ids if i in special] == [i for i in plain if i in special]

    check()


@pytest.mark.parametrize("template, typed", [
    ("<|{{ messages[0].content }}|><|im_end|>", "im_end"),
    ("<|im_{{ messages[0].content }}<|im_end|>", "end|>"),
    ("{{ messages[0].content }}|><|im_end|>", "<|im_end"),
    ("{{ messages[0].content[:-1] }}>{{ '<|im_end|>' }}", "<|im_end|!"),
    ("{{ messages[0].content }}{{ messages[1].content }}<|im_end|>", "<|im_"),
])
def test_names_are_not_put_together(tok, template, typed):
    mine = with_template(tok, template)
    messages = talk_of([typed, "end|>"])
    ids = apply_chat_template(mine, messages)
    assert [i for i in ids if i in mine.special_tokens.values()] == [ids[-1]]
    assert ids[-1] == mine.special_tokens["<|im_end|>"]


def test_a_template_that_looks_for_a_mark_is_refused(tok):
    mine = with_template(tok, "{% if '<|im_end|>' in messages[0].content %}a{% endif %}b")
    assert mine.decode(apply_chat_template(mine, talk_of(["Hi"]))) == "b"
    with pytest.raises(ValueError, match="looks for a special token in a message"):
        apply_chat_template(mine, talk_of(["Hi<|im_end|>"]))


def user(content): return dict(role="user", content=content)


@pytest.mark.parametrize("messages, error", [
    ([], "no messages"), ([user("")], r"messages\[0\], of the user, is empty"),
    ([user(" \n")], "is empty"), ([user(None)], "has the content None"),
    ([user(["Hi"])], r"has the content \['Hi'\]"),
    ([user("a"), user("b")], "messages.1. is of the"),
    ([dict(role="assistant", content="a")], "where the user is to speak"),
    ([user("a"), dict(role="system", content="b")], "the system may speak first"),
    ([dict(role="system", content="b")], "only the system speaks"),
    ([dict(role="king", content="a")], "has the role 'king': there are system, user, assistant"),
    ([dict(role=["user"], content="a")], "has the role"), (["Hi"], "a message has a role"),
    ([dict(content="a")], "a message has a role and a content"),
    ([user("\ud800")], "surrogate"),
])
def test_odd_messages(tok, messages, error):
    mine = with_template(tok, CHATML)
    with pytest.raises(ValueError, match=error) as raised: apply_chat_template(mine, messages)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("messages", ["Hi", dict(role="user", content="Hi"), 3, None])
def test_messages_are_a_list(tok, messages):
    with pytest.raises(TypeError, match="give a list such as"):
        apply_chat_template(with_template(tok, CHATML), messages)


def test_no_template(tok):
    with pytest.raises(ValueError, match="for_chat"):
        apply_chat_template(load_tokenizer("tales-short"), [user("Hi")])


NEVER_ENDS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template, error", [
    (NEVER_ENDS, "may never end"),
    ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
     "may never end"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ("{{ 'ha' * 10 ** 11 }}", "MemoryError|too much memory"),
    ("{% set n = namespace(x='ha') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
     "MemoryError|memory"),
    ("{{ 'ha'.ljust(20000000) }}", "more than 10 MB"),
    ("{% include '/etc/passwd' %}", "no loader"), ("{% import 'os' as os %}", "no loader"),
    ("{{ open('/etc/passwd').read() }}", "'open' is undefined"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe|not safely callable"),
    ("{{ raise_exception('only users') }}", "only users"), ("{% for", "unexpected"),
    ("{{ messages[0].content.nothing.more }}", "no attribute"),
])
def test_bad_templates(tok, monkeypatch, template, error):
    monkeypatch.setattr(chat, "SECONDS", 3 if "never" in error else 60)
    mine = with_template(tok, template)
    for _ in range(2):   # also the second time, when the process is there, or gone
        with pytest.raises(ValueError, match=error) as raised:
            apply_chat_template(mine, [user("Hi")])
        assert "\n" not in str(raised.value)
        if "never" in error: break


def test_a_process_is_used_again_after_an_error(tok):
    mine = with_template(tok, "{% if messages[0].content == 'Hi' %}{{ a.b.c }}{% endif %}b")
    with pytest.raises(ValueError): apply_chat_template(mine, [user("Hi")])
    assert mine.decode(apply_chat_template(mine, [user("Ho")])) == "b"


def test_where_a_template_stands(tok, tmp_path):
    one, both, several = (with_template(tok, CHATML) for _ in range(3))
    save_tokenizer(one, tmp_path / "one", None)
    assert load_tokenizer(tmp_path / "one").config["chat_template"] == CHATML
    save_tokenizer(both, tmp_path / "both", None)   # the newer file counts, as in transformers
    (tmp_path / "both/chat_template.jinja").write_text("{{ messages[0].content }}é", "utf-8")
    ids = apply_chat_template(load_tokenizer(tmp_path / "both"), [user("Hi")])
    assert tok.decode(ids) == "Hié"
    (tmp_path / "both/chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"): load_tokenizer(tmp_path / "both")
    several.config["chat_template"] = [dict(name="tool_use", template="no"),
                                       dict(name="default", template="yes")]
    assert tok.decode(apply_chat_template(several, [user("Hi")])) == "yes"


@pytest.mark.parametrize("template, error", [
    ("{% for", "unexpected"), ("{% include '/etc/passwd' %}", "no loader"),
    ("{{ 'ha'.ljust(20000000) }}", "more than 10 MB"),
    ("{{ raise_exception('only users') }}", "only users"),
    ("{% for m in messages %}{{ m.content }}{% endfor %}", "no special token behind an answer")])
def test_what_is_wrong_with_a_template_is_told_with_its_file(tok, tmp_path, template, error):
    mine, messages = with_template(tok, template), talk_of(["a kite", "a hat"])
    save_tokenizer(mine, tmp_path, None)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if name.endswith("jinja"): (tmp_path / name).write_text(template)
        again, file = load_tokenizer(tmp_path), re.escape(str(tmp_path / name))
        with pytest.raises(ValueError, match=f"^{file}: .*{error}") as told:
            answers_in(again, messages)
        assert str(told.value).count(str(tmp_path)) == 1
    again.config["chat_template"] = template + " "   # which no file holds
    with pytest.raises(ValueError, match=error) as told: answers_in(again, messages)
    assert str(tmp_path) not in str(told.value)


TINY = dict(vocab_size=800, context=64, n_layer=1, n_head=2, d_model=16, bos_token_id=799,
            eos_token_id=799)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_for_chat(tmp_path, arch, tied):
    if arch == "gpt2" and not tied: pytest.skip("GPT-2 ties its head")
    plain, body = load_tokenizer("tales-short"), GPT(GPTConfig(arch, tie_embeddings=tied, **TINY))
    model, tok = for_chat(body, plain)
    ids = torch.tensor([plain.encode("Once a boy")])
    torch.testing.assert_close(model(ids)[..., :800], body(ids))
    assert body.config.vocab_size == 800
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert tok.end_id == plain.end_id and "chat_template" not in plain.config
    model.save_pretrained(tmp_path)
    save_tokenizer(tok, tmp_path, tok.end_id)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == [799, 801]
    again, its = for_chat(GPT.from_pretrained(tmp_path), load_tokenizer(tmp_path))
    assert its.special_tokens == tok.special_tokens and its.config["chat_template"] == CHATML
    torch.testing.assert_close(again(ids), model(ids))


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer, BPETokenizer])
def test_marks_for_each_kind_of_tokenizer(tmp_path, kind):
    texts = ["user\nWho smiled?\nassistant\nOnly Mia smiled.\nsystem"] * 3
    more = {} if kind is CharTokenizer else dict(vocab_size=300)
    plain = kind.train(texts, **more)
    body = GPT(GPTConfig("qwen3", **TINY | dict(vocab_size=plain.vocab_size, bos_token_id=None,
                                                eos_token_id=None)))
    model, tok = for_chat(body, plain)
    assert [tok.special_tokens[mark] for mark in MARKS] == [plain.vocab_size, plain.vocab_size + 1]
    messages = talk_of(["Who smiled?", "Only Mia smiled."])
    assert learned_text(tok, chat_row(tok, messages)) == "Only Mia smiled.<|im_end|>"
    tok.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert apply_chat_template(again, messages) == apply_chat_template(tok, messages)


@pytest.mark.parametrize("name", ["chatml", "headers", "thinking"])
def test_the_mask_covers_what_it_says(tok, name):
    mine = with_template(tok, TEMPLATES[name])
    end = mine.config["eos_token"]
    for seed, lang in ((0, "en"), (1, "zh"), (2, "en")):
        messages = dialogue(Tales(lang), seed)
        said = [m["content"] + end for m in messages if m["role"] == "assistant"]
        x, y = chat_row(mine, messages)
        assert learned_text(mine, (x, y)) == "".join(said)
        ids = apply_chat_template(mine, messages)
        assert x == ids[:len(x)] and all(t in (-100, ids[i + 1]) for i, t in enumerate(y))
        assert y[-1] != -100


def test_the_mask_of_an_answer_that_melts_into_its_header(tok):
    mine = with_template(tok, CHATML)   # its line break makes one token with the header's
    row = chat_row(mine, talk_of(["Hi", "\nHo"]))
    assert learned_text(mine, row).endswith("Ho<|im_end|>")


def test_a_mask_needs_an_end_and_an_answer(tok):
    with pytest.raises(ValueError, match="no special token behind an answer"):
        chat_row(with_template(tok, "{% for m in messages %}{{ m.content }}{% endfor %}"),
                 talk_of(["Hi", "Ho"]))
    with pytest.raises(ValueError, match="the assistant says nothing"):
        chat_row(with_template(tok, CHATML), talk_of(["Hi"]))
    with pytest.raises(ValueError, match="no chat template"):
        answers_in(with_special(tok, []), talk_of(["a", "b"]))


TURN = "<|start|>{{ m.role }}{{ m.content }}"


@pytest.mark.parametrize("template, end", [
    ("{% for m in messages %}" + TURN + "<|eot|>{% endfor %}", "<|eot|>"),
    ("{% for m in messages %}" + TURN + "<|eot|>{% endfor %}<|im_end|>", "<|eot|>"),   # as Phi 3
    ("{% for m in messages %}" + TURN + "{{ '<|eot|>' if m.role == 'user' }}{% endfor %}",
     "<|start|>"),   # where the next message begins the answer is over
    ("{% for m in messages %}" + TURN[9:] + "{{ '<|eot|>' if m.role == 'user' }}{% endfor %}",
     None),
    ("{% for m in messages %}{{ m.content }}{% endfor %}<|eot|>", None),
])
def test_the_end_of_an_answer_is_what_the_template_writes_there(tok, template, end):
    mine = with_template(tok, template + "{{ '<|start|>assistant' if add_generation_prompt }}")
    mine.config["eos_token"] = "<|im_end|>"
    messages = talk_of(["a kite", "a hat", "a map", "a ring"])
    if end is None:
        with pytest.raises(ValueError, match="no special token behind an answer"):
            answers_in(mine, messages)
        return
    if end == "<|start|>": messages.append(dict(role="user", content="a drum"))
    assert learned_text(mine, chat_row(mine, messages)) == f"a hat{end}a ring{end}"


# in the manner of Mistral: the system's words stand before the last question, wherever that is
LATE = """
{%- if messages[0].role == 'system' %}
    {%- set said, first = messages[0].content + '\n\n', messages[1:] %}
{%- else %}{% set said, first = '', messages %}{% endif %}
{%- for m in first %}
    {%- if m.role == 'user' %}{{ '<|start|>' + (said if loop.revindex < 3 and loop.index >
                                 first | length - 2 else '') + m.content + '<|stop|>' }}
    {%- else %}{{ ' ' + m.content + '<|eot|>' }}{% endif %}
{%- endfor %}"""


@pytest.mark.parametrize("template, end", [
    ("{{ messages | length }}" + CHATML, "<|im_end|>"), (LATE, "<|eot|>")])
def test_answers_where_the_beginning_is_told_otherwise_when_a_talk_goes_on(tok, template, end):
    mine = with_template(tok, template)
    messages = talk_of(["Be kind.", "a kite", "a hat", "a map", "a ring"], system=True)
    assert mine.decode(apply_chat_template(mine, messages)).count("Be kind.") == 1
    learned = learned_text(mine, chat_row(mine, messages))
    assert learned.replace(" ", "") == f"ahat{end}aring{end}"


@pytest.mark.parametrize("said", [" a hat", "\n a hat", "<think>a cap?</think> a hat"])
def test_answers_whose_beginning_is_left_out(tok, said):
    said_last = "m.content.split('</think>')[-1].strip()"
    form = LATE.replace("m.content + '<|eot|>'", said_last + " + '<|eot|>'")
    mine = with_template(tok, form)
    messages = talk_of(["Be kind.", "a kite", said, "a map", said], system=True)
    assert learned_text(mine, chat_row(mine, messages)).replace(" ", "") == "ahat<|eot|>" * 2


def test_an_answer_that_cannot_be_found_is_refused(tok):
    twice = CHATML.replace("['content']", "['content'] * 2")
    mine = with_template(tok, "{{ messages | length }}" + twice)
    with pytest.raises(ValueError, match=r"messages\[1\]: where this answer begins"):
        answers_in(mine, talk_of(["a kite", "a hat"]))


def test_share_gpt_is_read_alike():
    ours = talk_of(["Text", "Hi", "Ho"], system=True)
    names = dict(system="system", user="human", assistant="gpt")
    theirs = [{"from": names[m["role"]], "value": m["content"]} for m in ours]
    assert as_messages_of(theirs, "row") == as_messages_of(ours, "row") == ours
    assert as_messages_of(json.dumps(theirs), "row") == ours


def test_contents_in_parts_and_what_is_no_text():
    def parts(*texts): return [dict(type="text", text=text) for text in texts]
    said = [dict(role="user", content=parts("Who ", "smiled?")),
            dict(role="assistant", content=parts("Mia."))]
    ours = talk_of(["Who smiled?", "Mia."])
    assert as_messages_of(said, "row") == ours
    assert as_messages_of([tuple(message.items()) for message in said], "row") == ours
    assert as_messages_of([dict(role="system", content=""), *ours], "row") == ours
    picture = [dict(type="image_url", image_url="a.png"), *parts("Who?")]
    with pytest.raises(ValueError, match=r"row: messages\[0\] has the content .*image_url"):
        as_messages_of([dict(role="user", content=picture), ours[1]], "row")
    call = dict(role="assistant", content=None, tool_calls=[dict(function=dict(name="f"))])
    with pytest.raises(ValueError, match="row: .* calls a tool"):
        as_messages_of([ours[0], call], "row")
    for content in ([], ["Hi"], parts(""), [dict(type="text")], [5]):
        with pytest.raises(ValueError, match="a text is expected|is empty"):
            as_messages_of([dict(role="user", content=content), ours[1]], "row")


def write(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def test_files_of_talks(tmp_path):
    good = talk_of(["Hi", "Ho"])
    rows = [dict(id=1, messages=good), dict(id=2, messages=None), dict(id=3, messages=good[:1])]
    with pytest.warns(UserWarning, match="no messages.*|no answer of the assistant"):
        examples = examples_of(write(tmp_path / "a.jsonl", rows), "chat")
    assert [e["messages"] for e in examples] == [good]
    theirs = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    shared = [dict(conversations=theirs)]
    assert examples_of(write(tmp_path / "b.jsonl", shared), "chat")[0]["messages"] == good
    for bad, error in [([dict(role="user", content="")], "is empty"), ("Hi", "a list of messages"),
                       ([good[0], good[0]], "messages.1. is of the user"), ([3], "has a role"),
                       ([dict(role="king", content="a")], "the role 'king'")]:
        with pytest.raises(ValueError, match=f"c.jsonl: .*{error}"):
            rows = [dict(messages=good), dict(messages=bad)]
            examples_of(write(tmp_path / "c.jsonl", rows), "chat")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A chat run, from a file."
    folder = tmp_path_factory.mktemp("chat")
    talks = [dialogue(Tales("en"), seed) for seed in range(24)]
    path = write(folder / "talks.jsonl", [dict(messages=messages) for messages in talks])
    run = finetune("tales-short", path, "chat", epochs=1, show=False, out=folder / "run")
    return run, folder, talks


def test_a_chat_run_opens_again(trained):
    run, folder, talks = trained
    again = Run.open(folder / "run")
    assert again.tok.config["chat_template"] == CHATML and again.options["task"] == "chat"
    assert again.model.config.eos_token_id == (799, 801)
    asked = [messages[:2] for messages in talks[:6] if messages[0]["role"] == "system"]
    assert replies(again.model, again.tok, asked) == replies(run.model, run.tok, asked)
    result = assess(folder / "run", folder / "talks.jsonl")
    assert result.keys() == {"examples", "loss", "token accuracy"}
    further = finetune(again, [dict(messages=messages) for messages in talks], "chat", epochs=0.5,
                       show=False)
    assert further.tok.special_tokens == run.tok.special_tokens


def test_transformers_opens_a_chat_run(trained):
    transformers = pytest.importorskip("transformers")
    run, folder, talks = trained
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "run")
    for messages in talks[:8]:
        assert theirs.apply_chat_template(messages, return_dict=False) \
            == apply_chat_template(run.tok, messages)
    pipe = transformers.pipeline("text-generation", str(folder / "run"), dtype=torch.float32)
    asked = [messages[:2] for messages in talks[:6] if messages[0]["role"] == "system"]
    ours = replies(run.model, run.tok, asked, most=20)
    for messages, reply in zip(asked, ours):
        said = pipe(messages, max_new_tokens=20, do_sample=False)[0]["generated_text"]
        assert said[:-1] == messages and said[-1]["role"] == "assistant"
        assert said[-1]["content"] == reply.text


def test_probability_of_a_reply(trained):
    run, _, talks = trained
    asked = [messages[:2] for messages in talks[:5] if messages[0]["role"] == "system"]
    end = run.tok.special_tokens[MARKS[1]]
    for messages, reply in zip(asked, replies(run.model, run.tok, asked, batch_size=2)):
        prompt = apply_chat_template(run.tok, messages, add_generation_prompt=True)
        ids = prompt + run.tok.encode(reply.text)
        if reply.text == "" or len(ids) - len(prompt) >= 40: continue   # cut off, it has no end
        with torch.no_grad(): chances = run.model(torch.tensor([ids])).log_softmax(-1)[0]
        best = sum(float(chances[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
        best += max(float(chances[-1, e]) for e in (end, run.tok.end_id))
        assert abs(torch.tensor(best).exp() - reply.probability) < 1e-3


def test_packed_rows_see_only_themselves(trained):
    run, _, talks = trained
    rows = chat_rows(run.tok, talks)
    width = max(len(x) for x, y in rows) + 100
    x, y, numbers = pack_rows(rows, width, 799)
    asked = sum(t != -100 for _, targets in rows for t in targets)
    assert len(x) < len(rows) and int((y != -100).sum()) == asked
    with torch.no_grad():
        packed = packed_logits(run.model, x, numbers)
        alone = {tuple(a): run.model(torch.tensor([a]))[0] for a, _ in rows}
    for line, row, number in zip(packed, x, numbers):
        for i in range(int(number.max()) + 1):
            torch.testing.assert_close(line[number == i], alone[tuple(row[number == i].tolist())],
                                       atol=2e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="wider than 5"): pack_rows(rows, 5, 799)


def test_packing_where_positions_are_learned():
    torch.manual_seed(0)
    model = GPT(GPTConfig("gpt2", **TINY)).eval()
    rows = [(list(range(9)), [1] * 9), (list(range(20, 25)), [2] * 5)]
    x, y, numbers = pack_rows(rows, 20, 0)
    with torch.no_grad(): packed = packed_logits(model, x, numbers)
    for ids, _ in rows:
        part = packed[0][numbers[0] == (0 if ids[0] == 0 else 1)]
        torch.testing.assert_close(part, model(torch.tensor([ids]))[0])


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_world_answers_its_own_questions(lang):
    kinds = set()
    for seed in range(200):
        text, turns = talk(Tales(lang), seed)
        for turn in turns:
            assert judge(turn.answer, turn) == ("right" if turn.fact else "refused")
            assert judge("Nonsense.", turn) == "wrong"
            kinds.add(bool(turn.fact))
    assert kinds == {True, False}


def test_coverage():
    shares, errors = coverage([0.5, 0.9, 0.1, 0.7], [False, True, True, True])
    assert shares == [0.25, 0.5, 0.75, 1.0] and errors == [0, 0, 1 / 3, 1 / 4]
    assert coverage([0.5], [True], n=4) == ([0.25], [0.0])


def test_command_line(tmp_path):
    from typer.testing import CliRunner

    from gpt_nb.cli import app
    path = write(tmp_path / "talks.jsonl",
                 [dict(messages=dialogue(Tales("en"), seed)) for seed in range(20)])
    said = CliRunner().invoke(app, ["finetune", "tales-short", "--task", "chat", "--data",
                                    str(path), "--epochs", "0.5", "--out", str(tmp_path / "run")])
    assert said.exit_code == 0, said.output
    assert "token accuracy" in said.output and "gpt-nb chat" in said.output
    assert Run.open(tmp_path / "run").options["task"] == "chat"
    said = CliRunner().invoke(app, ["eval", str(tmp_path / "run"), "--data", str(path)])
    assert said.exit_code == 0 and "token accuracy" in said.output, said.output
    said = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), "--data", str(path)])
    assert said.exit_code != 0 and "gpt-nb chat lets it answer" in str(said.exception) + said.output
