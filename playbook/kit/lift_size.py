"""How much `playbook lift` copies: the one place where the synopsis of a page gets its numbers from."""

import sys
from typing import NamedTuple

from playbook.kit import lift
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError


class LiftSize(NamedTuple):
    """Lines of code (imports and blank lines not counted), modules, and the libraries they import, sorted."""

    lines: int
    files: int
    needs: tuple[str, ...]

    def sentence(self) -> str:
        """As the card has it: `*Lift: 53 lines in 1 file; needs sqlalchemy.*`"""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return f"*Lift: {self.lines} lines in {files}; needs {', '.join(self.needs) or 'nothing'}.*"


def lift_size(course: Course, playbook: Playbook) -> LiftSize | None:
    """What lifting the recipe of `playbook` writes; None for a page that exports nothing, or cannot be lifted."""
    try:
        lifter = lift.Lifter(course)
        if not lifter.closure.module(playbook.key).parts:
            return None
        recipe = lifter.recipe(playbook, lifter.roots(playbook))
    except InputError:  # `lift.findings` says why
        return None
    needs = {name.partition(".")[0] for name in recipe.libraries} - sys.stdlib_module_names
    return LiftSize(recipe.lines, recipe.modules, tuple(sorted(needs)))
