"""Chat templates that fail do so with one line, and those that would take all time or memory are stopped."""

from __future__ import annotations

import time

import pytest

from octavo.tokenizer import chat_template
from octavo.tokenizer.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("template", "needle"),
    [
        ("{{ raise_exception('No system\nmessages, please') }}", r"No system messages, please$"),
        ("\n\n{% for %}", r"line 3: "),
        ("{{ messages[0].content.nothing.at_all }}", r"'str object' has no attribute 'nothing'"),
        ("{{ messages[0].content + 3 }}", r"can only concatenate"),
        ("{{ nonsense() }}", r"'nonsense' is undefined"),
        ("{{ ''.__class__.__mro__ }}", r"access to attribute '__class__' .* is unsafe"),
        ("{{ messages.append(1) }}", r"access to attribute 'append' .* is unsafe"),
        ("{% include '/etc/passwd' %}", r"no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"recursion"),
        ("{{ 'a' * 10 ** 9 }}", r"a repeated string or list is too long"),
        ("{{ [0] * 10 ** 9 }}", r"a repeated string or list is too long"),
        ("{{ 9 ** 999999999 }}", r"a power is too large"),
        ("{{ nothing | tojson }}", r"not JSON serializable"),
        ("x" * (chat_template.MAX_TEMPLATE_CHARS + 1), r"at most 1048576 characters"),
        ("(" * 300 + "{{" + "(" * 100_000, r".*"),
        ("{{ " + "-" * 100_000 + "1 }}", r"nested too deeply"),
    ],
)
def test_failing_templates_are_one_line(ours: Tokenizer, template: str, needle: str) -> None:
    with pytest.raises(ValueError, match="^chat template: .*" + needle) as caught:
        ours.apply_chat_template(HELLO, chat_template=template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in 'x' * 100000 %}{% for b in 'x' * 100000 %}{% set c = b %}{% endfor %}{% endfor %}",
    ],
)
def test_endless_loops_end(ours: Tokenizer, template: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match="its loops ran more than 2000000 times"):
        ours.apply_chat_template(HELLO, chat_template=template)
    assert time.process_time() - start < 20
    # The count is of one rendering, not of all.
    assert (
        ours.apply_chat_template(HELLO, chat_template="{% for a in range(3) %}{{ a }}{% endfor %}") == "012"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = range(99999)|list %}{{ x" + "|sort" * 20_000 + "|length }}",
    ],
)
def test_time_ends(ours: Tokenizer, template: str) -> None:
    with (
        chat_template.rendering_time(0.05),
        pytest.raises(ValueError, match=r"it took too long|its loops|nested too deeply"),
    ):
        ours.apply_chat_template(HELLO, chat_template=template)
    assert ours.apply_chat_template(HELLO, chat_template="x") == "x"


def test_endless_output_ends(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_PROMPT_CHARS", 10_000)
    template = "{% for a in range(50000) %}{{ a }}{% endfor %}"
    with pytest.raises(ValueError, match="it wrote more than 10000 characters"):
        ours.apply_chat_template(HELLO, chat_template=template)


@pytest.mark.parametrize(
    "step",
    ["{% set n.s = n.s ~ n.s %}", "{% set n.s = n.s + n.s %}", "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}"],
)
def test_doubling_ends(ours: Tokenizer, step: str) -> None:
    template = "{% set n = namespace(s='0123456789') %}{% for a in range(1000) %}" + step + "{% endfor %}"
    with pytest.raises(ValueError, match="it made a value longer than 33554432"):
        ours.apply_chat_template(HELLO, chat_template=template)
