"""The sandbox of chat templates is that of transformers: its settings, what templates render to, what they may not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import jinja2
import pytest
from chats import TEMPLATES, chat
from transformers.utils.chat_template_utils import _compile_jinja_template

from tamis.operators.tokens.chat_template import FIXED_DATE, compile_template

GIVEN: dict[str, Any] = {
    "messages": chat("q\n", " a", "<b>&", 'é "c"\n\n'),
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": False,
    "tools": [{"b": 1, "a": [None, True, "<&é"]}],
    "documents": None,
}


def both(template: str) -> tuple[Any, Any]:
    """What comes of the template here and in transformers: a text, or the error."""

    def outcome(compile: Any) -> Any:
        try:
            return compile(template).render(GIVEN)
        except Exception as error:
            return type(error)

    return outcome(compile_template), outcome(_compile_jinja_template)


def test_its_settings_are_those_of_transformers() -> None:
    """Where a new version of transformers allows, or forbids, something else, this is where it shows."""
    ours, theirs = (compile("{{ 1 }}").environment for compile in (compile_template, _compile_jinja_template))
    assert type(ours) is type(theirs)
    for setting in ("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "autoescape", "undefined", "finalize",
                    "block_start_string", "variable_start_string", "newline_sequence", "sandboxed"):  # fmt: skip
        assert getattr(ours, setting) == getattr(theirs, setting), setting
    assert ours.globals.keys() == theirs.globals.keys()
    assert ours.filters.keys() == theirs.filters.keys()
    assert {name for name in ours.filters if ours.filters[name] is not theirs.filters[name]} == {"tojson"}
    assert ours.tests == theirs.tests
    tags = [set().union(*(extension.tags for extension in each.extensions.values())) for each in (ours, theirs)]
    assert tags[0] == tags[1] == {"generation", "break", "continue"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates(name: str) -> None:
    ours, theirs = both(TEMPLATES[name])
    assert ours == theirs


@pytest.mark.parametrize(
    "template",
    [
        "{{ tools | tojson }} {{ tools | tojson(indent=2) }} {{ tools | tojson(ensure_ascii=true, sort_keys=true) }}",
        "{{ tools | tojson(separators=(',', ':')) }}",
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "a\n{% if true %}\n  b\n{% endif %}\nc\n",
        "  {%- set x = 1 %}\n   {% set y = 2 %}\n{{ x }}{{ y }}\n",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
        "{% for m in messages %}{% generation %}{% set c = m.content %}{{ c }}{% endgeneration %}{{ c }}{% endfor %}",
        "{% set c = 'out' %}{% generation %}{% set c = 'in' %}{{ c }}{% endgeneration %}{{ c }}",
        "{% set ns = namespace(n=0) %}{% generation %}{% set ns.n = 5 %}{% endgeneration %}{{ ns.n }}",
        "{% macro m(x) %}{% generation %}[{{ x }}{{ bos_token }}]{% endgeneration %}{% endmacro %}{{ m('y') }}",
        "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
        "{% set kwargs = 'K' %}{% set caller = 'C' %}{% generation %}{{ kwargs }}{{ caller }}{% endgeneration %}",
        "{% macro m() %}{% generation %}{{ caller() }}{% endgeneration %}{% endmacro %}{% call m() %}x{% endcall %}",
        "{{ dict(a=1) }} {{ dict([('b', 2)], c=3)['b'] }} {{ dict.fromkeys(['x', 'y'], 0) }}",
        "{% set ns = namespace(self=1, a='b') %}{{ ns.self }}{{ ns.a }}{{ ns.nothing }}",
        "{{ raise_exception('no such role') }}",
        "{{ nothing }}{{ nothing.at_all }}",
        "{{ messages[0].role | upper }} {{ messages | map(attribute='role') | unique | join(',') }}",
        "{{ range(3) | list }} {{ cycler('a', 'b').next() }} {{ lipsum is defined }}",
        # what is not allowed
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ dict.__init__ }}{{ dict.__class__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__self__ }}",
        "{{ range(100001) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% include 'x' %}",
        "{% generation %}",
        "{{ unclosed",
    ],
)  # fmt: skip
def test_whatever_a_template_does(template: str) -> None:
    ours, theirs = both(template)
    assert ours == theirs


@pytest.mark.parametrize(
    "template",
    [
        "{{ dict.mro() }}",
        "{{ dict.update({}, {}) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ namespace({'__init__': 1}) }}",
    ],
)
def test_what_the_oldest_transformers_still_allows(template: str) -> None:
    """There templates reach Python's own names through `dict` and `namespace`; here they never may."""
    ours, theirs = both(template)
    assert ours in (jinja2.exceptions.SecurityError, jinja2.exceptions.UndefinedError)
    if _compile_jinja_template("").environment.globals["dict"] is not dict:
        assert ours == theirs


def test_an_error_says_what_the_template_says() -> None:
    with pytest.raises(jinja2.TemplateError, match=r"^no such role$"):
        compile_template("{{ raise_exception('no such role') }}").render()


def test_the_date_is_always_the_same() -> None:
    """The one thing in which it is not as transformers."""
    assert compile_template("{{ strftime_now('%d %b %Y') }}").render() == "26 Jul 2024"
    assert _compile_jinja_template("{{ strftime_now('%Y') }}").render() == str(datetime.now().year)
    assert FIXED_DATE.year == 2024
