"""What *Take it with you* shows is what the recipe's own tests run: word for word, but for the types of results."""

import ast
import re
from pathlib import Path

import pytest

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def statements(source: str) -> list[str]:
    """The statements of a module in one spelling, without the annotated types of results."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return [ast.unparse(node) for node in tree.body]


@pytest.mark.parametrize("name", ["pagination", "cursors", "retries", "cross_site", "sign_in", "throttling"])
def test_the_code_to_take_along_is_run_by_the_recipe_s_tests(name: str) -> None:
    prose = Course().get(name).source.split("## Take it with you")[1]
    shown = [
        statement for block in re.findall(r"```python\n(.*?)```", prose, re.DOTALL) for statement in statements(block)
    ]
    assert shown
    run = statements((TESTS / f"test_{name}.py").read_text("utf-8"))
    assert [statement for statement in shown if statement not in run] == []
