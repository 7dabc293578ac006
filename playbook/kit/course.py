"""The course as data: tracks and order from `course.toml`, titles, cards and sections from the playbooks' texts."""

import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from playbook.kit import hook
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError

PACKAGE = ROOT / "playbook"
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Playbook:
    """One playbook: where its two files are, and what its text says about itself."""

    track: str  # "" for the landing page
    name: str
    root: Path = field(default=ROOT, compare=False)

    @property
    def key(self) -> str:
        """`track/name`, as `course.toml` and the command line write it."""
        return f"{self.track}/{self.name}" if self.track else self.name

    @property
    def module(self) -> str:
        return "playbook." + self.key.replace("/", ".")

    @property
    def text(self) -> Path:
        return self.root / "playbook" / f"{self.key}.py"

    @property
    def notebook(self) -> Path:
        return self.root / "notebooks" / f"{self.key}.ipynb"

    @cached_property
    def source(self) -> str:
        try:
            return self.text.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{self.key} is in course.toml but playbook/{self.key}.py does not exist") from None

    @cached_property
    def prose(self) -> str:
        """The markdown cells, without their triple quotes, in order."""
        lines = self.source.split("\n")
        parts = []
        for cell in hook.cells(self.source):
            if cell.markdown:
                parts.append("\n".join(lines[cell.start : cell.stop]).strip().strip('"').strip())
        return "\n\n".join(parts)

    @property
    def title(self) -> str:
        match = re.search(r"^# (.+)$", self.prose, re.M)
        return match[1].strip() if match else self.name

    @property
    def promise(self) -> str:
        """The sentence below the title: what the reader can do afterwards. Without links; it is shown elsewhere too."""
        match = re.search(r"^# .+\n+([^#|\n].*(?:\n[^|#\n].*)*)", self.prose, re.M)
        return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(match[1].split())) if match else ""

    @property
    def card(self) -> dict[str, str]:
        """The rows of the card's table: "Use it when", "You need", "Time", "Topics", "Standard"."""
        return {k: v.strip() for k, v in re.findall(r"^\| \*\*(.+?)\*\* \| (.*) \|$", self.prose, re.M)}

    @property
    def minutes(self) -> int:
        """To read, and for the exercise where the card says so: `read 33 min, exercise 15 min` are 48."""
        return sum(int(number) for number in re.findall(r"\d+", self.card.get("Time", "")))

    @property
    def topics(self) -> list[str]:
        return [topic.strip() for topic in self.card.get("Topics", "").split(",") if topic.strip()]

    @property
    def sections(self) -> list[str]:
        return re.findall(r"^## (.+)$", self.prose, re.M)

    def section(self, heading: str) -> str:
        """The prose below `## heading`, up to the next section; empty when there is none."""
        match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", self.prose, re.M | re.S)
        return match[1].strip() if match else ""


@dataclass(frozen=True)
class Track:
    name: str
    title: str
    playbooks: tuple[Playbook, ...]


@dataclass(frozen=True)
class NotYet:
    """What people ask for and no page answers: words that say so, and the pages that come nearest."""

    what: str
    words: tuple[str, ...]
    nearest: tuple[str, ...]


class Course:
    """The order of tracks and playbooks. Raises InputError when `course.toml` cannot be read."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        path = root / "playbook" / "course.toml"
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"playbook/course.toml cannot be read: {error}") from None
        try:
            self.tracks = tuple(
                Track(t["name"], t["title"], tuple(self._playbook(t["name"], name) for name in t["playbooks"]))
                for t in raw["track"]
            )
        except (KeyError, TypeError):
            raise InputError(
                "playbook/course.toml cannot be read: every [[track]] needs a name, a title and a list of playbooks"
            ) from None
        self.moved = {str(old): tuple(new) for old, new in raw.get("moved", {}).items()}  # pages of before, by name
        self.core_names = tuple(str(name) for name in raw.get("core", ()))
        self.questions, self.not_yet = self._asked(raw)
        self.lift: dict[str, object] = raw.get("lift", {})  # what `playbook lift` is told, by page

    def _asked(self, raw: dict[str, Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, NotYet]]:
        """What people ask: questions by page, and what is not there yet by the page that is planned for it."""
        names = {name for track in self.tracks for name in (p.name for p in track.playbooks)}
        try:
            questions = {str(name): tuple(asked) for name, asked in raw.get("questions", {}).items()}
            planned = {
                str(name): NotYet(entry["what"], tuple(entry["words"]), tuple(entry["nearest"]))
                for name, entry in raw.get("not_yet", {}).items()
            }
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                "playbook/course.toml cannot be read: [questions] has a list for each page, and every [not_yet.NAME] "
                "needs `what`, `words` and `nearest`"
            ) from None
        named = [*questions, *(name for entry in planned.values() for name in entry.nearest)]
        if unknown := sorted({*named} - names):
            raise InputError(f"playbook/course.toml: [questions] or [not_yet] name {unknown[0]!r}, which is no page")
        return questions, {name: entry for name, entry in planned.items() if name not in names}

    def _playbook(self, track: str, name: str) -> Playbook:
        return Playbook(track, name, self.root)

    @cached_property
    def index(self) -> Playbook:
        """The landing page: a playbook by form, outside the tracks."""
        return Playbook("", "index", self.root)

    @cached_property
    def playbooks(self) -> tuple[Playbook, ...]:
        """All playbooks in course order, without the landing page."""
        return tuple(p for track in self.tracks for p in track.playbooks)

    @cached_property
    def core(self) -> tuple[Playbook, ...]:
        """The core path: the playbooks that `course.toml` names as `core`, in course order."""
        return tuple(p for p in self.playbooks if p.name in self.core_names)

    @property
    def pairs(self) -> tuple[Playbook, ...]:
        """Everything that has a text and a notebook: the landing page and the playbooks."""
        return (self.index, *self.playbooks)

    def has(self, name: str) -> bool:
        """Whether `get` knows the name."""
        try:
            self.get(name)
        except InputError:
            return False
        return True

    def get(self, name: str) -> Playbook:
        """The playbook called `name`, `track/name`, or by the path of either of its files.

        Raises InputError with the nearest names for one that does not exist.
        """
        wanted = re.sub(r"^(?:\./)?(?:playbook|notebooks)/|\.(?:py|ipynb)$", "", name.strip())
        for playbook in self.pairs:
            if wanted in (playbook.key, playbook.name):
                return playbook
        now = self.moved.get(wanted.rpartition("/")[2], ())
        if len(now) == 1:
            return self.get(now[0])
        if now:
            raise InputError(f"{wanted} has become {', '.join(now)}: name one of them")
        names = [p.name for p in self.pairs] + [p.key for p in self.pairs]
        near = get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`playbook list` shows them all"
        raise InputError(f"no playbook is called {name!r}: {hint}")

    def neighbours(self, playbook: Playbook) -> tuple[Playbook | None, Playbook | None]:
        """The playbooks before and after `playbook` in the course."""
        order = self.playbooks
        at = order.index(playbook)
        return (order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None)
