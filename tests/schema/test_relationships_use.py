"""What the page relationships shows to take along is run by the tests of its recipe; what Pantry makes of it."""

import ast
import re
from pathlib import Path

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def test_the_shop_that_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    prose = Course().get("relationships").source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = ast.parse((TESTS / "test_relationships.py").read_text("utf-8"))
    for node in ast.walk(run):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    known = {ast.unparse(node) for node in run.body}
    shown = [ast.unparse(node) for node in ast.parse(block).body]
    assert len(shown) == 4
    assert [statement for statement in shown if statement not in known] == []
