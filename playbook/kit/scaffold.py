"""Make a new playbook: a text with every section, the module of its exercise, and its line in `course.toml`."""

import keyword
import re
import sys
import sysconfig
import tomllib
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path

from playbook.kit import answers
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.pairing import write_whole

TEMPLATE = Path(__file__).with_name("template.py.txt")
EXERCISE = Path(__file__).with_name("exercise.py.txt")
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def shadows(name: str) -> str:
    """What a module called `name` would hide from a script beside it, whose folder comes first on the path."""
    if name in sys.stdlib_module_names:
        return f"{name} is a module of the standard library"
    paths = sysconfig.get_paths()
    spec = PathFinder.find_spec(name, [paths["purelib"], paths["platlib"]])
    # A folder without `__init__` (no origin) hides nothing: the nearer module wins, and nobody imports the other.
    return f"{name} is an installed library" if spec is not None and spec.origin else ""


def _placed(course: Course, wanted: str) -> tuple[str, str]:
    """`wanted` as track and name. Raises InputError for a form, a track or a name that cannot be."""
    track, slash, name = wanted.strip().removeprefix("playbook/").removesuffix(".py").partition("/")
    tracks = [t.name for t in course.tracks]
    if not (slash and track and name) or "/" in name:
        raise InputError(f"{wanted!r} is not TRACK/NAME: write it like {tracks[0]}/my_playbook")
    if track not in tracks:
        near = get_close_matches(track, tracks, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the tracks are {', '.join(tracks)}"
        raise InputError(f"no track is called {track!r}: {hint} (new tracks are written into playbook/course.toml)")
    if not SNAKE_CASE.fullmatch(name) or keyword.iskeyword(name):
        suggestion = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
        fits = SNAKE_CASE.fullmatch(suggestion) and not keyword.iskeyword(suggestion)
        hint = f"did you mean {suggestion}?" if fits else "use small letters, digits and single underscores"
        raise InputError(f"{name!r} cannot be a module's name: {hint}")
    if hidden := shadows(name):
        raise InputError(f"{hidden}, and a script beside it would import the wrong one: choose another name")
    taken = next((p for p in course.pairs if p.name == name), None)
    if taken is not None:
        raise InputError(f"there is a playbook {taken.key} already: choose another name, names are looked up")
    new = Playbook(track, name, course.root)
    for path in (new.text, new.notebook, answers.place(new)):
        if path.exists():
            raise InputError(f"{path.relative_to(course.root).as_posix()} exists already: choose another name")
    return track, name


def create(course: Course, wanted: str) -> Playbook:
    """Write the text of playbook `TRACK/NAME` and add it as the last of its track.

    Raises InputError, and writes nothing, for a name that is taken, cannot be imported, or hides another module.
    """
    track, name = _placed(course, wanted)
    toml = course.root / "playbook" / "course.toml"
    listed = add_to_toml(toml.read_text(encoding="utf-8"), track, name)
    new = Playbook(track, name, course.root)
    before = [p for t in course.tracks[: [t.name for t in course.tracks].index(track) + 1] for p in t.playbooks]
    need = f"[{before[-1].title}]({_relative(before[-1], track)}) TODO or what else is needed" if before else "nothing"
    title = name.replace("_", " ").capitalize()
    values = {"title": title, "name": name, "need": need, "module": new.module, "path": f"{track}.{name}"}
    exercise = answers.place(new)
    for path, template in ((new.text, TEMPLATE), (exercise, EXERCISE)):
        text = template.read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace("{" + key + "}", value)
        write_whole(path, text)
    docstrings = {
        new.text.parent: f"{track.capitalize()}.",
        exercise.parent.parent: "The exercises of the pages.",
        exercise.parent: f"Exercises of the track {track}.",
    }
    for folder, docstring in docstrings.items():
        if not (folder / "__init__.py").exists():
            write_whole(folder / "__init__.py", f'"""{docstring}"""\n')
    write_whole(toml, listed)
    return new


def _relative(playbook: Playbook, track: str) -> str:
    return f"{playbook.name}.ipynb" if playbook.track == track else f"../{playbook.key}.ipynb"


def add_to_toml(toml: str, track: str, name: str) -> str:
    """`toml` with `name` added to the end of the track's list; comments and layout stay.

    Raises InputError when the list is not found where `course.toml` has it.
    """
    for block in re.finditer(r"^\[\[track\]\].*?(?=^\[|\Z)", toml, re.M | re.S):
        array = re.search(r"^playbooks\s*=\s*\[", block[0], re.M)
        if array and tomllib.loads(block[0])["track"][0].get("name") == track:
            added = _append(toml, block.start() + array.end(), name)
            if _lists(added) == {**_lists(toml), track: [*_lists(toml)[track], name]}:
                return added
    raise InputError(
        f"playbook/course.toml: the list of track {track!r} is not in the usual form: add {name!r} by hand"
    )


def _lists(toml: str) -> dict[str, list[str]]:
    return {t["name"]: t["playbooks"] for t in tomllib.loads(toml)["track"]}


def _append(toml: str, start: int, name: str) -> str:
    """Add `name` to the array of strings whose content begins at `start`."""
    # Comments may hold brackets and quotes, so they are matched as a whole; the first bracket outside them closes.
    end, comma = start, True
    for token in re.finditer(r"#[^\n]*|\"[^\"\n]*\"|'[^'\n]*'|,|\]", toml[start:]):
        if token[0] == "]":
            break
        if not token[0].startswith("#"):
            end, comma = start + token.end(), token[0] == ","
    close = toml.index("]", end) if token is None else start + token.start()
    if "\n" not in toml[start:close]:
        separator = "" if end == start else " " if comma else ", "
        return f'{toml[:end]}{separator}"{name}"{toml[end:]}'
    last_line = toml.rindex("\n", start, close) + 1
    if end > last_line:  # the last name stands on the line of the bracket
        return f'{toml[:end]}{" " if comma else ", "}"{name}"{toml[end:]}'
    indent = re.search(r"^[ \t]+(?=[\"'])", toml[start:close], re.M)
    with_comma = toml[:end] + ("" if comma else ",") + toml[end:last_line]
    return f'{with_comma}{indent[0] if indent else "    "}"{name}",\n{toml[last_line:]}'
