"""How much `playbook lift` copies: the one place where the synopsis of a page gets its numbers from."""

from typing import NamedTuple

from playbook.kit.course import Course, Playbook


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
    """What lifting the recipe of `playbook` writes; None while that cannot be computed, and then nothing is checked."""
    return None
