"""What the pages on GraphQL show to take along is run by the tests of their recipes."""

import ast
import re
from pathlib import Path

import pytest

from playbook.kit.course import Course

TESTS = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize(("page", "statements"), [("graphql_api", 3), ("graphql_limits", 2)])
def test_the_shop_that_the_page_shows_is_run_by_the_recipe_s_tests(page: str, statements: int) -> None:
    prose = Course().get(page).source.split("## Take it with you")[1]
    [block] = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    run = {ast.unparse(node) for node in ast.parse((TESTS / f"test_{page}.py").read_text("utf-8")).body}
    shown = [ast.unparse(node) for node in ast.parse(block).body]
    assert len(shown) == statements
    assert [statement for statement in shown if statement not in run] == []
