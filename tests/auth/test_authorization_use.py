"""What the page authorization shows to take along is run by the tests of its recipe."""

import ast
import re
from pathlib import Path

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def test_the_shop_that_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    prose = Course().get("authorization").source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = ast.parse((TESTS / "test_authorization.py").read_text("utf-8"))
    known = {ast.unparse(node) for node in run.body}
    shown = [ast.unparse(node) for node in ast.parse(block).body]
    assert len(shown) == 3
    assert [statement for statement in shown if statement not in known] == []
