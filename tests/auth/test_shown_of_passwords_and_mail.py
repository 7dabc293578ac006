"""What *Take it with you* of pages shows is what their recipes' own tests run, but for annotated types."""

import ast
import re
from pathlib import Path

import pytest

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def bare(tree: ast.AST) -> ast.AST:
    """`tree` without the annotations of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return tree


def all_statements(source: str) -> set[str]:
    """The statements of a module at any depth, in one spelling."""
    return {ast.unparse(node) for node in ast.walk(bare(ast.parse(source))) if isinstance(node, ast.stmt)}


@pytest.mark.parametrize("name", ["password_hashing", "password_rules", "mail", "mail_queue", "mail_threads"])
def test_the_code_to_take_along_is_run_by_the_recipe_s_tests(name: str) -> None:
    prose = Course().get(name).source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    shown = [ast.unparse(bare(node)) for node in ast.parse(block).body]
    assert shown
    run = all_statements((TESTS / f"test_{name}.py").read_text("utf-8"))
    assert [statement for statement in shown if statement not in run] == []


def test_what_no_test_runs_is_found() -> None:
    assert "rules = 1" not in all_statements("def f() -> None:\n    rules = 2")
    assert "rules = 2" in all_statements("def f() -> None:\n    rules = 2")
