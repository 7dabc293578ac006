"""The generated parts of the texts: the course map and the previous/next links, made from `course.toml` and the cards.

They stand in three places: `README.md` between two comments, the landing page's cell tagged `map`, and every
playbook's last cell, tagged `nav`. All are prose, so the stored notebooks are brought along without running them.
"""

import os
import re
from pathlib import Path

from playbook.kit import hook, pairing
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

BEGIN, END = "<!-- map -->", "<!-- /map -->"


def duration(minutes: int) -> str:
    """`95` as `1 h 35 min`."""
    hours, rest = divmod(minutes, 60)
    parts = ([f"{hours} h"] if hours else []) + ([f"{rest} min"] if rest or not hours else [])
    return " ".join(parts)


def _link(playbook: Playbook, folder: Path) -> str:
    """A markdown link to the notebook, relative to `folder`, with the slashes of a URL on every system."""
    return f"[{playbook.title}]({Path(os.path.relpath(playbook.notebook, folder)).as_posix()})"


def _marked(course: Course, playbook: Playbook, folder: Path) -> str:
    link = _link(playbook, folder)
    return f"**{link}**" if playbook in course.core else link


def course_map(course: Course, folder: Path) -> str:
    """A table a track: page, minutes, what the reader can do afterwards. The links are relative to `folder`.

    Pages of the core path are bold.
    """
    parts = [f"{len(course.playbooks)} playbooks, {duration(sum(p.minutes for p in course.playbooks))} in all."]
    if course.core:
        minutes = duration(sum(p.minutes for p in course.core))
        parts[0] += f" The **core path**, {len(course.core)} of them in bold, takes {minutes}: begin there."
    for track in course.tracks:
        minutes = duration(sum(p.minutes for p in track.playbooks))
        rows = [
            f"| {_marked(course, p, folder)} | {p.minutes} | {p.promise.replace('|', chr(92) + '|')} |"
            for p in track.playbooks
        ]
        heading = f"### {track.name}: {track.title} ({minutes})"
        head = ["| playbook | minutes | what you can do afterwards |", "|---|--:|---|"]
        parts.append("\n".join([heading, "", *head, *rows]))
    return "\n\n".join(parts)


def navigation(course: Course, playbook: Playbook) -> str:
    """Previous, index and next, as links from `playbook`'s notebook."""
    before, after = course.neighbours(playbook)
    folder = playbook.notebook.parent
    index = f"[course map]({Path(os.path.relpath(course.index.notebook, folder)).as_posix()})"
    parts = [f"Previous: {_link(before, folder)}"] if before else []
    parts.append(index)
    parts += [f"Next: {_link(after, folder)}"] if after else []
    return " · ".join(parts)


def _parts(course: Course) -> list[tuple[Playbook, str, str]]:
    """(page, tag of its generated cell, that cell's body)."""
    index = course.index
    return [
        (index, "map", course_map(course, index.notebook.parent)),
        *((p, "nav", navigation(course, p)) for p in course.playbooks),
    ]


def _with_cell(source: str, tag: str, body: str) -> str | None:
    """`source` with the body of its markdown cell tagged `tag` replaced; None when there is not exactly one."""
    found = [cell for cell in hook.cells(source) if cell.markdown and tag in cell.tags]
    if len(found) != 1:
        return None
    lines = source.split("\n")
    start, stop = found[0].start, found[0].stop
    blank = [""] * (stop - start - len("\n".join(lines[start:stop]).rstrip().split("\n")))
    return "\n".join([*lines[:start], '"""', *body.split("\n"), '"""', *blank, *lines[stop:]])


def _with_map(readme: str, body: str) -> str | None:
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n\n{body}\n\n{end}{after}" if begin and end else None


def update(course: Course) -> list[Path]:
    """Rewrite the generated parts that are out of date, in texts and stored notebooks; the files that changed.

    A file without its place for a generated part is left alone: `outdated` reports it.
    """
    changed: list[Path] = []
    for playbook, tag, body in _parts(course):
        source = playbook.text.read_text(encoding="utf-8") if playbook.text.is_file() else ""
        wanted = _with_cell(source, tag, body)
        if wanted is not None and wanted != source:
            pairing.write_whole(playbook.text, wanted)
            changed.append(playbook.text)
        if wanted is not None and _update_notebook(playbook, tag, body):
            changed.append(playbook.notebook)
    readme = course.root / "README.md"
    old = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    new = _with_map(old, course_map(course, course.root))
    if new is not None and new != old:
        pairing.write_whole(readme, new)
        changed.append(readme)
    return changed


def _update_notebook(playbook: Playbook, tag: str, body: str) -> bool:
    """Put `body` into the stored notebook's cell; whether it changed. Outputs and every other cell stay as they are."""
    try:
        notebook = pairing.read_notebook(playbook)
    except InputError:
        return False  # not made yet
    cells = [c for c in notebook.cells if c.cell_type == "markdown" and tag in c.metadata.get("tags", ())]
    if len(cells) != 1 or cells[0].source == body:
        return False
    cells[0].source = body
    pairing.write_whole(playbook.notebook, pairing.dumps(notebook))
    return True


def outdated(course: Course) -> list[str]:
    """The generated parts that are missing or not what the course says, one line each, with what to do."""
    found = []
    for playbook, tag, body in _parts(course):
        path = f"playbook/{playbook.key}.py"
        wanted = _with_cell(playbook.source, tag, body)
        if wanted is None:
            found.append(f'{path}: needs one markdown cell tagged "{tag}"; write `# %% [markdown] tags=["{tag}"]`')
        elif wanted != playbook.source:
            line = next(c.start for c in hook.cells(playbook.source) if c.markdown and tag in c.tags)
            what = "the course map" if tag == "map" else "the previous/next links"
            found.append(f"{path}:{line}: {what} of the page is out of date; run `playbook refresh {playbook.name}`")
    readme = course.root / "README.md"
    old = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    new = _with_map(old, course_map(course, course.root))
    if new is None:
        found.append(f"README.md: has no place for the course map; write `{BEGIN}` and `{END}` where it belongs")
    elif new != old:
        line = len(re.split("\n", old.partition(BEGIN)[0]))
        found.append(f"README.md:{line}: the course map is out of date; run `playbook refresh index`")
    return found
