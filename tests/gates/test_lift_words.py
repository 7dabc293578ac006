"""`course.toml` shows how each recipe is used, for the README of a lift; so does its page. Both must be true today."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from playbook.kit.course import Course, Playbook

COURSE = Course()
LIFTED = [p for p in COURSE.playbooks if p.name in COURSE.lift]


def told(page: Playbook, key: str) -> Any:
    entry = COURSE.lift[page.name]
    assert isinstance(entry, dict)
    return entry[key]


def page_synopsis(page: Playbook) -> str:
    """The Python block between the card and the first section."""
    blocks = re.findall(r"^```python\n(.+?)^```$", page.prose.split("\n## ")[0], re.M | re.S)
    assert len(blocks) == 1, page.key
    return str(blocks[0])


def calls(code: str, module: Any) -> Iterator[tuple[str, ast.Call]]:
    """The calls in `code` of what `module`, or a recipe that it imports, defines."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            defined = getattr(module, node.func.id, None)
            if getattr(defined, "__module__", "").startswith("playbook."):
                yield node.func.id, node


def wrong_calls(code: str, module: Any) -> list[str]:
    """The calls that today's signature would refuse."""
    found = []
    for name, call in calls(code, module):
        given = [a for a in call.args if not isinstance(a, ast.Starred)]
        named = {k.arg: None for k in call.keywords if k.arg is not None}
        bind = inspect.signature(getattr(module, name)).bind
        if len(given) < len(call.args) or len(named) < len(call.keywords):
            bind = inspect.signature(getattr(module, name)).bind_partial
        try:
            bind(*given, **named)
        except TypeError as error:
            found.append(f"{ast.unparse(call)}: {error}")
    return found


@pytest.mark.parametrize("page", LIFTED, ids=lambda page: page.name)
def test_both_synopses_call_the_recipe_as_it_is_today(page: Playbook) -> None:
    module = importlib.import_module(page.module)
    own, toml = page_synopsis(page), told(page, "synopsis")
    assert wrong_calls(own, module) == []
    assert wrong_calls(toml, module) == []
    both = {name for name, _ in calls(own, module)} & {name for name, _ in calls(toml, module)}
    assert both or not list(calls(own, module)), "the README of a lift shows another use than the page"


def test_a_call_that_the_signature_refuses_is_found() -> None:
    module = importlib.import_module("playbook.foundations.transactions")
    assert wrong_calls("transaction(engine)", module) == ["transaction(engine): missing a required argument: 'work'"]
    assert len(wrong_calls("transaction(engine, work, tries=3)", module)) == 1
    assert wrong_calls("transaction(engine, work, attempts=3)", module) == []
