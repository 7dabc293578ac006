"""The page on performance: the test that it shows is one of the recipe's tests."""

import ast
import re
from pathlib import Path

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def test_what_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    prose = Course().get("performance").source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = ast.parse((TESTS / "test_performance.py").read_text("utf-8"))
    for node in ast.walk(run):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    known = {ast.unparse(node) for node in run.body}
    [shown] = ast.parse(block).body
    assert ast.unparse(shown) in known
