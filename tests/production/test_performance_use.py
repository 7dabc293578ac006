"""The page on performance: the test that it shows is one of the recipe's tests."""

import ast
import re
import signal
import time
from pathlib import Path

from playbook.exercises.production.performance import stacks_of
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


def test_the_profile_finds_code_that_holds_the_interpreter() -> None:
    """A thread that looks finds nothing but the sleeps, where it gets its turn."""

    def compute() -> int:
        return sum(number * number for number in range(10_000))

    def rest() -> None:
        time.sleep(0.0001)

    def work() -> None:
        compute()
        rest()

    before = signal.getsignal(signal.SIGPROF)
    found = stacks_of(work)
    computing = sum(count for stack, count in found.items() if "compute" in stack)
    assert computing > found.total() / 3, found
    assert all(stack[0] == "work" for stack in found)
    assert signal.getsignal(signal.SIGPROF) is before
