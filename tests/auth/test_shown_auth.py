"""What the auth pages show in *Take it with you*, and the attacks of `sessions`, is what the recipes' own tests run."""

import ast
import re

import pytest

from playbook.kit.course import Course
from tests.api.test_shown_code import TESTS, statements


def without_types(source: str, name: str) -> str:
    """The function `name` of a module, without the types of its parameters and its result."""
    [found] = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name]
    for node in ast.walk(found):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(found)


@pytest.mark.parametrize("name", ["cookies", "sessions", "session_lookup", "api_tokens"])
def test_the_code_to_take_along_is_run_by_the_recipe_s_tests(name: str) -> None:
    prose = Course().get(name).source.split("## Take it with you")[1]
    blocks = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    shown = [statement for block in blocks for statement in statements(block)]
    assert shown
    run = statements((TESTS / f"test_{name}.py").read_text("utf-8"))
    assert [statement for statement in shown if statement not in run] == []


@pytest.mark.parametrize("name", ["browser", "sign_in", "who", "attack"])
def test_the_attacks_that_are_lifted_are_those_of_the_page(name: str) -> None:
    stages = re.findall(r'^# %% tags=\["stage"\]\n(.*?)(?=^# %%)', Course().get("sessions").source, re.M | re.S)
    [stage] = [text for text in stages if f"def {name}(" in text]
    lifted = (TESTS / "test_sessions.py").read_text("utf-8")
    assert without_types(lifted, name) == without_types(stage, name)


def test_the_statement_against_an_old_password_is_the_page_s() -> None:
    [shown] = re.findall(r"```sql\n(.*?)```", Course().get("sessions").source, re.DOTALL)
    assert shown in (TESTS / "test_sessions.py").read_text("utf-8")
