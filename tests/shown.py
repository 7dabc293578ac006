"""What *Take it with you* shows, beside what the recipe's own tests run."""

import ast
import re
from pathlib import Path

from playbook.kit.course import Course

RECIPES = Path(__file__).parent / "recipes"


def shown_and_not_run(page: str) -> tuple[int, list[str]]:
    """How many statements the one code block of *Take it with you* has, and those that are in no recipe's test.

    Word for word, but for the annotations of parameters and results, which the tests have and the page leaves out.
    """
    prose = Course().get(page).source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = ast.parse((RECIPES / f"test_{page}.py").read_text("utf-8"))
    for node in ast.walk(run):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    known = {ast.unparse(node) for node in run.body}
    shown = [ast.unparse(node) for node in ast.parse(block).body]
    return len(shown), [statement for statement in shown if statement not in known]
