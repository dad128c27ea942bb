"""Templates that would run for ever or fill the memory: each ends in seconds, in one line, and the next one renders."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.rendering import Rendered, Renderer
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models import render_process
from tamis.pipeline.models.checks import open_model
from tamis.pipeline.models.render_process import BoundedRenderer

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
IF_ASKED = "{% if messages[0].content == 'go' %}ACTION{% endif %}" + PLAIN
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": LOOPS,
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "lists in lists": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x }}",
    "format": "{{ '%0*d' % (9999999999, 1) }}",
    "a constant": "{{ 'a' | center(9999999999) }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "two calls in each": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "output": "{% for i in range(9999) %}{{ 'a' * 1000 }}{% endfor %}",
    "nesting": "{% for a in messages %}" * 25 + "{% endfor %}" * 25,
    "brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}  # fmt: skip


def chat(*contents: str) -> Conversation:
    roles = ("user", "assistant") * len(contents)
    return Conversation([{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are the same, the time less."""
    monkeypatch.setattr(render_process, "SECONDS", 0.5)
    monkeypatch.setattr(render_process, "TRIAL_SECONDS", 0.5)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    render_process.end()


def test_it_renders_what_a_renderer_renders() -> None:
    conversations = [chat("q", "a"), chat("q\ud83d", "\u2028é\n", "\x00", " x "), chat("", "a"), Conversation([])]
    bounded, plain = BoundedRenderer(PLAIN, VARIABLES), Renderer(PLAIN, VARIABLES)
    assert bounded.render_all(conversations) == plain.render_all(conversations)
    assert bounded.text(conversations[0]) == plain.text(conversations[0])
    assert bounded.render(conversations[1]) == plain.render(conversations[1])


def test_it_renders_tools_and_finds_the_answers_that_are_trained_on() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, None, "é"]}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    conversations = [
        Conversation(turns, {"tools": [{"name": "f"}]}),
        Conversation([*turns, *chat("q", "a").messages], {"tools": [{"name": "f"}]}, frozenset({3})),
    ]
    template = "{{ tools | tojson }}" + PLAIN.replace(
        "m.content", "m.tool_calls | tojson if m.tool_calls else m.content"
    )
    found = BoundedRenderer(template, VARIABLES).render_all(conversations)
    assert found == Renderer(template, VARIABLES).render_all(conversations)
    assert [len(rendered.answers) for rendered in found if isinstance(rendered, Rendered)] == [1, 1]


def test_problems_come_back_as_they_are() -> None:
    refusing = "{{ raise_exception('no such role') }}{{ messages }}"
    with pytest.raises(RowProblem, match=r"template_error: .*no such role"):
        BoundedRenderer(refusing, VARIABLES).text(chat("q", "a"))
    with pytest.raises(ValueError, match="not valid Jinja, line 1"):
        BoundedRenderer("{% for m in messages %}", VARIABLES)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_one_line(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^the chat template ") as caught:
        BoundedRenderer(HOSTILE[name], VARIABLES)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30
    assert BoundedRenderer(PLAIN, VARIABLES).text(chat("q", "a")) == "<s>user: q\nassistant: a\n"


@pytest.mark.parametrize("name", ["loops", "format", "output"])
def test_a_template_that_passed_is_bounded_row_by_row(name: str) -> None:
    bounded = BoundedRenderer(IF_ASKED.replace("ACTION", HOSTILE[name]), VARIABLES)
    before, bad, after = bounded.render_all([chat("q", "a"), chat("go", "a"), chat("q", "b")])
    assert isinstance(before, Rendered)
    assert isinstance(bad, RowProblem)
    assert bad.code == "template_error"
    assert after == bounded.render(chat("q", "b"))


def test_a_template_that_hangs_again_and_again_is_given_up() -> None:
    bounded = BoundedRenderer(IF_ASKED.replace("ACTION", LOOPS), VARIABLES)
    with pytest.raises(ValueError, match=r"takes too long, for 3 conversations; set model\.template"):
        bounded.render_all([chat("go", "a")] * 9)


def test_a_child_that_something_else_has_killed_costs_no_row() -> None:
    bounded = BoundedRenderer(PLAIN, VARIABLES)
    process = render_process._process()
    os.kill(process._child.pid, signal.SIGKILL)
    process._child.wait()
    assert isinstance(bounded.render(chat("q", "a")), Rendered)
    # With a request that it has not answered: it is asked again. A stopped child cannot answer before it is killed.
    child = render_process._process()._child
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)  # the signal has arrived
    found: list[Rendered] = []
    asking = threading.Thread(target=lambda: found.append(bounded.render(chat("go", "a"))))
    asking.start()
    while not _waiting_in(child.stdin):
        time.sleep(0.001)
    child.kill()
    asking.join()
    assert [rendered.text for rendered in found] == ["<s>user: go\nassistant: a\n"]


def _waiting_in(pipe: IO[bytes] | None) -> int:
    """The bytes in a pipe that nobody has read yet."""
    assert pipe is not None
    number = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, number)
    return int.from_bytes(number, sys.byteorder)


def test_threads_get_their_own_answers() -> None:
    bounded = BoundedRenderer(PLAIN, VARIABLES)
    found: dict[int, bool] = {}

    def ask(number: int) -> None:
        texts = [chat(f"q{number}", f"a{i}") for i in range(50)]
        found[number] = bounded.render_all(texts) == Renderer(PLAIN, VARIABLES).render_all(texts)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_no_process_and_no_descriptor_is_left() -> None:
    BoundedRenderer(PLAIN, VARIABLES)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ValueError, match="takes too long"):
            BoundedRenderer(LOOPS, VARIABLES)
        BoundedRenderer(PLAIN, VARIABLES)
    assert len(os.listdir("/proc/self/fd")) == before
    render_process.end()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_the_child_ends_with_the_process_that_asked_and_imports_nothing_large() -> None:
    """Started as a notebook starts it: without a main module to import, and with a stdin of its own."""
    script = (
        "import json, sys; from tamis.pipeline.models import render_process as r; "
        "r.BoundedRenderer('{{ messages }}', {}); "
        "print(r._process()._child.pid, 'torch' in sys.modules, flush=True); "
        "print(open(f'/proc/{r._process()._child.pid}/maps').read().count('torch'), flush=True); "
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    first, maps = ran.stdout.splitlines()
    pid, torch = first.split()
    assert (torch, maps) == ("False", "0"), ran.stderr
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_code_in_the_working_folder_is_not_run(tmp_path: Path) -> None:
    for name in ("json", "jinja2", "signal"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    script = "from tamis.pipeline.models.render_process import BoundedRenderer; BoundedRenderer('{{ messages }}', {})"
    subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert not (tmp_path / "ran").exists()


def test_the_plan_names_the_model_and_what_to_set(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "chat_template.jinja").write_text(LOOPS + PLAIN)
    with pytest.raises(ConfigError) as caught:
        open_model(ModelSpec(name=str(model)))
    assert str(caught.value).startswith(f"model {model}: the chat template takes too long")
    assert "set model.template" in str(caught.value)
    mended = open_model(ModelSpec(name=str(model), template=PLAIN))
    again = ChatTokenizer.from_json(mended.tokenizer.to_json(), BoundedRenderer)
    assert again.fingerprint == mended.tokenizer.fingerprint
    assert json.loads(again.to_json()) == json.loads(mended.tokenizer.to_json())
