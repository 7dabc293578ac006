"""What a page shows in *Take it with you* is what its recipe's own tests run: word for word."""

import ast
import re
from pathlib import Path

import pytest

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("name", ["password_reset", "sign_up", "account_changes", "authorization"])
def test_the_code_to_take_along_is_run_by_the_recipe_s_tests(name: str) -> None:
    prose = Course().get(name).source.split("## Take it with you")[1]
    blocks = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    shown = [ast.unparse(node) for block in blocks for node in ast.parse(block).body]
    run = [ast.unparse(node) for node in ast.parse((TESTS / f"test_{name}.py").read_text("utf-8")).body]
    assert len(shown) >= 3
    assert [each for each in shown if each not in run] == []
