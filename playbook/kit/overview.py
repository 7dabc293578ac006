"""How far the reader is: what is done, what comes next, the core path, the hours that are left."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from playbook.kit import progress, workbook
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT
from playbook.kit.display import Shown, table
from playbook.kit.maps import duration

DONE, NEXT, OPEN = "done", "next", "open"


@dataclass(frozen=True)
class Overview:
    """The pages that are done, in course order, and the one that comes next."""

    course: Course
    done: tuple[Playbook, ...]
    next: Playbook | None

    def status(self, page: Playbook) -> str:
        return NEXT if page == self.next else DONE if page in self.done else OPEN

    def count(self, pages: Iterable[Playbook]) -> tuple[str, str]:
        """`2 of 19`, and the time that the others take."""
        pages = list(pages)
        left = [page for page in pages if page not in self.done]
        return f"{len(pages) - len(left)} of {len(pages)}", duration(sum(page.minutes for page in left))


def overview(course: Course, found: progress.Progress) -> Overview:
    """A page is done when its checker has said "right". The core path comes first, then the others."""
    done = tuple(page for page in course.playbooks if page.key in found.solved)
    ahead = (page for page in (*course.core, *course.playbooks) if page not in done)
    return Overview(course, done, next(ahead, None))


def show_progress() -> Shown:
    """The overview, for the landing page. Outside of the workbook it is that of somebody who has done nothing."""
    there = progress.here()
    course = Course(there.parent if there else ROOT)
    found = progress.read(there) if there else progress.Progress()
    lines = workbook.notices(course) if there else []
    where = workbook.places(course) if there else {page: page.notebook for page in course.pairs}
    folder = where[course.index].parent

    def link(page: Playbook) -> str:
        return f"[{page.title}]({Path(os.path.relpath(where[page], folder)).as_posix()})"

    seen = overview(course, found)
    plain = _parts(seen, lambda page: page.title, table(_rows(seen)).text)
    return Shown("\n".join([*plain, *lines]), "\n\n".join([*_parts(seen, link, _markdown(seen)), *lines]))


def _rows(seen: Overview) -> list[dict[str, str]]:
    pages = {"core path": seen.course.core, "all pages": seen.course.playbooks}
    return [{"": name, DONE: seen.count(some)[0], "still to do": seen.count(some)[1]} for name, some in pages.items()]


def _markdown(seen: Overview) -> str:
    return str(table(_rows(seen))._repr_mimebundle_()["text/markdown"])


def _parts(seen: Overview, name: Callable[[Playbook], str], rows: str) -> list[str]:
    first = f"Next: {name(seen.next)}, {duration(seen.next.minutes)}." if seen.next else "Every page is done."
    parts = [first, rows]
    ticked = {page: f"{'✓ ' if page in seen.done else ''}{name(page)}" for page in seen.course.playbooks}
    if core := seen.course.core:
        parts.append(f"The core path: {', '.join(ticked[page] for page in core)}.")
    if others := [ticked[page] for page in seen.done if page not in seen.course.core]:
        parts.append(f"Done beside it: {', '.join(others)}.")
    return parts
