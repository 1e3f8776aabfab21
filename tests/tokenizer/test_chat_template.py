"""Chat templates render as in transformers."""

from __future__ import annotations

import time
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.tokenizer import chat_template
from octavo.tokenizer.tokenizer import Tokenizer

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3_LIKE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have these functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'ipython' or message.role == 'tool' %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- if message.tool_calls|length != 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- (tool_call.arguments | tojson) + "}<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL_LIKE = """\
{{ bos_token }}
{%- set ns = namespace(index=0, last=none) -%}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ ' [INST] ' + message['content'] + ' [/INST]' -}}
{% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token -}}
{% else %}
{{ raise_exception('Only user and assistant roles are supported, got ' ~ message['role']) }}
{% endif %}
{% set ns.index = ns.index + 1 %}
{% if loop.last %}{% set ns.last = message.role %}{% endif %}
{% if ns.index > 50 %}{% break %}{% endif %}
{% endfor %}
{{- '\\n' ~ ns.index ~ ' ' ~ ns.last ~ ' ' ~ (documents or []) | tojson }}
"""

PARTS_ONLY = """\
{% for message in messages %}{% set content = message['content'] %}
{{ message.role }}:{% for part in content if part.type == 'text' %}{{ part['text'] }}|{% endfor %}

{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}
"""

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3_LIKE, "mistral": MISTRAL_LIKE}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather & more: <b>é</b> 'now'",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hello"}],
    "turns": [
        {"role": "user", "content": "  What is <b>this</b> & 'that'?\n"},
        {"role": "assistant", "content": "That: é 😀 {{ not a template }} {% nor this %}"},
        {"role": "user", "content": ""},
    ],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "tool": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Köln"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": '{"sky": "grey"}'},
    ],
}


@pytest.fixture(scope="module")
def theirs(byte_level: tokenizers.Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=byte_level, bos_token="<s>", eos_token="</s>")


def outcome(render: Any) -> tuple[bool, str]:
    """What rendering gives: a prompt, or the message of the error."""
    try:
        return True, render()
    except Exception as error:
        return False, str(error).removeprefix("chat template: ")


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", [*TEMPLATES, "demo"])
def test_equals_transformers(
    ours: Tokenizer, theirs: Any, demo_tokenizer: Tokenizer, name: str, chat: str
) -> None:
    template = TEMPLATES.get(name) or demo_tokenizer.chat_template
    for options in (
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS, "documents": [{"title": "T", "text": "é<"}]},
        {"add_generation_prompt": False, "date_string": "1 Jan 2030", "bos_token": "<B>"},
    ):
        options["chat_template"] = template
        mine = outcome(lambda options=options: ours.apply_chat_template(CHATS[chat], **options))
        other = outcome(
            lambda options=options: theirs.apply_chat_template(CHATS[chat], tokenize=False, **options)
        )
        assert mine == other


@pytest.mark.parametrize("name", [*TEMPLATES, "demo"])
@pytest.mark.parametrize("content", ["The answer is", "  spaced  ", "ends in space ", "two\nlines\n"])
def test_continue_final_message_equals_transformers(
    ours: Tokenizer, theirs: Any, demo_tokenizer: Tokenizer, name: str, content: str
) -> None:
    template = TEMPLATES.get(name) or demo_tokenizer.chat_template
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": content}]
    options: dict[str, Any] = {
        "chat_template": template,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    prompt = ours.apply_chat_template(chat, **options)
    assert prompt == theirs.apply_chat_template(chat, tokenize=False, **options)
    assert prompt.rstrip().endswith(content.strip())
    assert chat[-1]["content"] == content, "the caller's messages are left alone"


@settings(max_examples=100, deadline=None)
@given(
    contents=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    continued=st.booleans(),
    name=st.sampled_from(sorted(TEMPLATES)),
)
def test_any_content_equals_transformers(
    ours: Tokenizer, theirs: Any, contents: list[str], continued: bool, name: str
) -> None:
    roles = ["user", "assistant"] * 2
    chat = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    options: dict[str, Any] = {
        "chat_template": TEMPLATES[name],
        "add_generation_prompt": not continued,
        "continue_final_message": continued,
    }
    assert outcome(lambda: ours.apply_chat_template(chat, **options)) == outcome(
        lambda: theirs.apply_chat_template(chat, tokenize=False, **options)
    )


def test_the_demo_s_prompt(demo_tokenizer: Tokenizer) -> None:
    assert demo_tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_text_parts_become_what_the_template_takes(ours: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "three"}]
    assert ours.apply_chat_template(chat, chat_template=CHATML, add_generation_prompt=False) == (
        "<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\nthree<|im_end|>\n"
    )
    assert ours.apply_chat_template(chat, chat_template=PARTS_ONLY) == (
        "user:one|two|\nassistant:three|\nassistant:"
    )
    assert ours.apply_chat_template(
        chat, chat_template=PARTS_ONLY, add_generation_prompt=False, continue_final_message=True
    ) == ("user:one|two|\nassistant:three")


def test_which_templates_take_parts() -> None:
    def takes_parts(source: str) -> bool:
        return chat_template.compile_template(source).takes_parts

    assert takes_parts("{% for p in messages[0].content %}{{ p.text }}{% endfor %}")
    assert takes_parts("{% for p in messages[0]['content'] %}{{ p.text }}{% endfor %}")
    assert not takes_parts(LLAMA3_LIKE)
    assert not takes_parts(CHATML)
    assert not takes_parts(
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% endfor %}{% endif %}"
    )


def test_tool_arguments_become_objects(ours: Tokenizer) -> None:
    def render(arguments: Any) -> str:
        call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]
        return ours.apply_chat_template(chat, chat_template=LLAMA3_LIKE)

    assert '"parameters": {"city": "Köln"}}' in render('{"city": "Köln"}')
    assert render('{"city": "Köln"}') == render({"city": "Köln"})
    assert '"parameters": {}}' in render("")
    with pytest.raises(
        ValueError, match=r"^messages\[1\]\.tool_calls\[0\]\.function\.arguments must be JSON"
    ):
        render("{")


# What is refused, and how it is said.


@pytest.mark.parametrize(
    ("messages", "needle"),
    [
        ([], r"messages must be a list of at least one message"),
        ("hi", r"messages must be a list"),
        (["hi"], r"messages\[0\] must be an object with role and content, got str"),
        ([{"content": "x"}], r"messages\[0\]\.role must be a string, got None"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing"),
        ([{"role": "user", "content": None}], r"messages\[0\]\.content is missing"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content must be a string or a list"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}],
            r"messages\[1\]\.content\[0\] .*type 'image_url' is not supported",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\]\.content\[0\] must be"),
        ([{"role": "user", "content": [{"text": "x"}]}], r"messages\[0\]\.content\[0\] must be"),
        ([{"role": "user", "content": [None]}], r"messages\[0\]\.content\[0\] must be"),
        ([{"role": "assistant", "tool_calls": [3]}], r"messages\[0\]\.tool_calls\[0\]\.function must be"),
        ([{"role": "assistant", "tool_calls": "x"}], r"messages\[0\]\.tool_calls must be a list"),
    ],
)
def test_malformed_messages_are_named(ours: Tokenizer, messages: Any, needle: str) -> None:
    with pytest.raises(ValueError, match="^" + needle) as caught:
        ours.apply_chat_template(messages, chat_template=CHATML)
    assert "\n" not in str(caught.value)


HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("messages", "template", "needle"),
    [
        (HELLO, "constant", "leaves the final message's text out"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], CHATML, "has no content"),
        ([{"role": "user", "content": []}], PARTS_ONLY, "has no content"),
    ],
)
def test_what_cannot_be_continued(ours: Tokenizer, messages: Any, template: str, needle: str) -> None:
    with pytest.raises(ValueError, match=f"^continue_final_message: .*{needle}"):
        ours.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=False, continue_final_message=True
        )


def test_continuing_excludes_a_generation_prompt(ours: Tokenizer) -> None:
    with pytest.raises(ValueError, match="continue_final_message and add_generation_prompt exclude"):
        ours.apply_chat_template(HELLO, chat_template=CHATML, continue_final_message=True)


def test_templates_are_compiled_once() -> None:
    assert chat_template.compile_template(CHATML) is chat_template.compile_template(CHATML)


def test_loop_variables_survive_the_count(ours: Tokenizer, theirs: Any) -> None:
    template = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
        "{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{% endfor %}"
        "{% for m in messages if m.content != 'b' %}{{ m.content }}{{ loop.length }}{% endfor %}"
        "{% for m in [] %}x{% else %}none{% endfor %}{% for m in missing %}x{% else %}none{% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}"
        "{% for m in messages | reverse recursive %}{{ m.content }}{{ loop(m.more) if m.more }}{% endfor %}"
    )
    chat: list[dict[str, Any]] = [{"role": "user", "content": text} for text in "abc"]
    chat[1]["more"] = [{"content": "d"}, {"content": "e"}]
    prompt = ours.apply_chat_template(chat, chat_template=template)
    assert prompt == theirs.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("nonenonea1cbdea")


def test_the_date(ours: Tokenizer) -> None:
    template = "{{ strftime_now('%Y') }}"
    assert ours.apply_chat_template(HELLO, chat_template=template) in {
        time.strftime("%Y", time.localtime(time.time() + shift)) for shift in (-60, 0)
    }
