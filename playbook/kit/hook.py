"""Import a playbook and only its `export` cells run.

A playbook is a jupytext percent script: cells start at a line `# %%`, and a cell's header may carry tags. A module
import keeps the cells tagged `export`; every other line is blanked, not removed, so line numbers in tracebacks,
coverage and debuggers are those of the file. The first markdown cell stays too: it becomes the module's docstring.

Files without `# %%` lines are left to Python's own loader. Standard library only, because it runs at every import.
"""

import importlib.util
import json
import marshal
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple

HEADER = re.compile(r"^# %%(?:\s(?P<options>.*))?$")
TAGS = re.compile(r"\btags=(\[[^\]]*\])")
CACHE = "exports2"  # part of the cached file's name: change it when the rules below change


class Cell(NamedTuple):
    """Lines `start` to `stop` (1-based, inclusive) of a percent script; `start` is the header's line."""

    start: int
    stop: int
    markdown: bool
    tags: frozenset[str]


def cells(source: str) -> Iterator[Cell]:
    """The cells of a percent script, in order. Lines before the first header belong to no cell."""
    lines = source.split("\n")
    headers = [(n, m) for n, line in enumerate(lines, 1) if (m := HEADER.match(line))]
    stops = [n - 1 for n, _ in headers[1:]] + [len(lines)] * bool(headers)
    for (start, header), stop in zip(headers, stops, strict=True):
        options = header["options"] or ""
        tags = TAGS.search(options)
        yield Cell(start, stop, "[markdown]" in options, frozenset(json.loads(tags[1]) if tags else ()))


def exported(source: str) -> str:
    """`source` with everything blanked that importing it must not run; the same number of lines."""
    keep: set[int] = set()
    for index, cell in enumerate(cells(source)):
        if "export" in cell.tags or (index == 0 and cell.markdown):
            keep.update(range(cell.start, cell.stop + 1))
    return "\n".join(line if n in keep else "" for n, line in enumerate(source.split("\n"), 1))


class PlaybookLoader(SourceFileLoader):
    """Loads a playbook's export cells; any other source file as Python would.

    Python trusts bytecode whose recorded time and size match the source. Two edits within a second can keep both,
    and `pip install` compiles files without this hook. So playbooks have bytecode files of their own, checked by a
    hash of the source (PEP 552) and named apart. The path is part of the hash: a copied tree must not report the
    lines of the tree it was copied from.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if b"# %%" not in source:
            return super().get_code(fullname)
        # `python -O` leaves asserts out, so its code is kept apart, as Python does.
        cached = importlib.util.cache_from_source(path, optimization=f"{CACHE}o{sys.flags.optimize}")
        header = importlib.util.MAGIC_NUMBER + importlib.util.source_hash(path.encode() + b"\0" + source)
        try:
            data = self.get_data(cached)
            if data.startswith(header) and isinstance(code := marshal.loads(data[len(header) :]), CodeType):
                return code
        except (OSError, EOFError, ValueError, TypeError):
            pass  # no cached file, or one cut short
        code = self.source_to_code(source, path)
        if not sys.dont_write_bytecode:
            self.set_data(cached, header + marshal.dumps(code))
        return code

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        """Compile `data`. A syntax error names the file and the line the reader sees in it."""
        if isinstance(data, (bytes, bytearray, memoryview)):
            source = importlib.util.decode_source(bytes(data))
            if any(True for _ in cells(source)):
                data = exported(source)
        return super().source_to_code(data, path, _optimize=_optimize)


class PlaybookFinder(PathFinder):
    """Finds modules below the package `playbook` as `PathFinder` does, and has playbooks loaded by `PlaybookLoader`."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("playbook.") or f"{fullname}.".startswith("playbook.kit."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = PlaybookLoader(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Put the finder first, once."""
    if PlaybookFinder not in sys.meta_path:
        sys.meta_path.insert(0, PlaybookFinder)
