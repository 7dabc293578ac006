"""The code that the page contract shows to take along is run by the tests of its recipe."""

import ast
import re
from pathlib import Path

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


def test_the_hook_that_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    prose = Course().get("contract").source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = ast.parse((TESTS / "test_contract.py").read_text("utf-8"))
    for node in ast.walk(run):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    shown = [ast.unparse(node) for node in ast.parse(block).body]
    assert len(shown) == 1
    assert set(shown) <= {ast.unparse(node) for node in run.body}
