"""Lift a recipe: write what a page exports, and what that needs, as plain modules into somebody else's project.

The lock file beside the modules keeps the text of every symbol as it was written, the common base. So later each
difference can be told apart: changed in the project, changed in the course, or both; and be merged three ways.

No file is overwritten that was not written here, or that was changed since; nothing is written outside the folder.
"""

import ast
import importlib.metadata
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches, unified_diff
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from playbook.kit import closure
from playbook.kit.closure import Closure, Import, Lifted, Part
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

LOCK = "playbook.lock"
VERSION = 1  # of the lock file's form
MAX_LINES, MAX_MODULES = 250, 3  # of a recipe; imports and blank lines are not counted
WIDTH = 88  # columns of an import statement
TESTS = "tests/recipes"  # of the course: `test_NAME.py` goes along with the recipe NAME
DISTRIBUTION = "backend-playbook"
TEST_CLIENTS = ("fastapi.testclient", "starlette.testclient")  # they need httpx and do not bring it
PACKAGE_FILES = ("__init__.py", "tests/__init__.py")  # a project's own are as good as ours
MARKERS = re.compile(r"^(?:<{7}|>{7}) ", re.M)


# ---------------------------------------------------------------- what course.toml says


@dataclass(frozen=True)
class Metadata:
    """`[lift.NAME]` of `course.toml`; every key may be missing.

    `roots`: what is lifted by default, else all exports. `tests`: files of the course's tests, else
    `tests/recipes/test_NAME.py`. `registrations`: a function that only its decorator makes known, and the symbols it
    belongs to. `security`: whether a change must reach everybody who has lifted it. `over`: why the recipe is longer
    than others. `synopsis`: code, and `seams`: sentences, for the README.
    """

    roots: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    registrations: Mapping[str, list[str]] = field(default_factory=dict)
    security: bool = False
    over: str = ""
    synopsis: str = ""
    seams: tuple[str, ...] = ()


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def metadata(course: Course) -> dict[str, Metadata]:
    """The metadata of all pages that have some, by page. Raises InputError for what it cannot be."""
    found = {}
    for name, table in course.lift.items():
        try:
            page = course.get(name)
        except InputError as error:
            raise InputError(f"playbook/course.toml, [lift.{name}]: {error}") from None
        found[page.key] = _metadata(name, table)
    return found


def _metadata(name: str, table: object) -> Metadata:
    where, known = f"playbook/course.toml, [lift.{name}]", Metadata.__dataclass_fields__
    if not isinstance(table, dict):
        raise InputError(f"{where}: should be a table")
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            raise InputError(f"{where}: {key!r} is not known; {f'did you mean {near[0]}?' if near else 'remove it'}")
        if key == "security":
            right, form = isinstance(value, bool), "true or false"
        elif key in ("over", "synopsis"):
            right, form = isinstance(value, str), "a text"
        elif key == "registrations":
            right = isinstance(value, dict) and all(_texts(names) and names for names in value.values())
            form = "a table: function = [symbols that it belongs to]"
        else:
            right, form = _texts(value), "a list of texts"
        if not right:
            raise InputError(f"{where}: {key} should be {form}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Metadata(**given)


# ---------------------------------------------------------------- what is lifted


@dataclass(frozen=True)
class Provenance:
    """Which course a text comes from."""

    version: str
    commit: str
    licence: str

    def __str__(self) -> str:
        return f"{DISTRIBUTION} {self.version}" + (f", commit {self.commit}" if self.commit else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def provenance(course: Course) -> Provenance:
    """Version, commit and licence of the course, as far as they are known."""
    project = _project(course)
    version = str(project.get("version", "")) or _installed_version()
    commit = _git(course.root, "rev-parse", "--short=12", "HEAD") if (course.root / ".git").exists() else ""
    if commit and _git(course.root, "status", "--porcelain", "--", "playbook", TESTS):
        commit += " with changes"
    licence = course.root / "LICENSE"
    lines = licence.read_text(encoding="utf-8").split("\n") if licence.is_file() else []
    parts = [lines[0], *(line for line in lines if line.startswith("Copyright"))] if lines else ["MIT License"]
    return Provenance(version, commit, ", ".join(part.strip() for part in parts))


def _installed_version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _project(course: Course) -> dict[str, Any]:
    path = course.root / "pyproject.toml"
    if not path.is_file():
        return {}
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return project


@dataclass(frozen=True)
class Recipe:
    """One page as it is lifted: its roots, and what they need by page, in course order."""

    page: Playbook
    roots: tuple[str, ...]
    lifted: tuple[Lifted, ...]
    about: Metadata

    @property
    def lines(self) -> int:
        """Lines of code, without imports and blank lines."""
        return sum(part.lines for lifted in self.lifted for part in lifted.parts)

    @property
    def modules(self) -> int:
        return len(self.lifted)

    @property
    def libraries(self) -> set[str]:
        """The modules that its modules import, at the top or when they run; those of the course are not among them."""
        names = {one.module for lifted in self.lifted for one in lifted.imports}
        names |= {name for lifted in self.lifted for part in lifted.parts for name in part.inner_imports}
        return {name for name in names if name.partition(".")[0] != "playbook"}

    @property
    def over(self) -> str:
        """What is too much; empty for a recipe within the limits."""
        too_long, too_many = self.lines > MAX_LINES, self.modules > MAX_MODULES
        limit = f"at most {MAX_LINES} in {MAX_MODULES}"
        return f"{self.lines} lines in {self.modules} modules, {limit}" if too_long or too_many else ""


class Lifter:
    """Computes recipes of a course. Nothing is written."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.about = metadata(course)
        self.closure = Closure(course, {key: about.registrations for key, about in self.about.items()})

    def roots(self, page: Playbook, only: Sequence[str] = ()) -> tuple[str, ...]:
        """What is lifted of a page. Raises InputError for a page without exports, and for a name it does not export."""
        if not page.track:
            raise InputError("index is the landing page and exports nothing: `playbook list` shows the playbooks")
        module = self.closure.module(page.key)
        if not module.parts:
            raise InputError(f"{page.key} exports nothing, so there is nothing to lift: read it with `playbook lab`")
        wanted = tuple(dict.fromkeys(only)) or self.about.get(page.key, Metadata()).roots or tuple(module.names)
        closure.known(page, module, wanted)
        return wanted

    def recipe(self, page: Playbook, roots: Sequence[str]) -> Recipe:
        about = self.about.get(page.key, Metadata())
        for function, symbols in about.registrations.items():
            closure.known(page, self.closure.module(page.key), [function, *symbols])
        return Recipe(page, tuple(roots), tuple(self.closure.of((page.key, name) for name in roots)), about)

    def tests(self, recipe: Recipe) -> dict[str, str]:
        """The texts of the recipe's tests, by their place in the folder."""
        names = recipe.about.tests or (f"{TESTS}/test_{recipe.page.name}.py",)
        paths = [self.course.root / name for name in names]
        missing = [name for name in recipe.about.tests if not (self.course.root / name).is_file()]
        if missing:
            raise InputError(f"playbook/course.toml, [lift.{recipe.page.name}]: {missing[0]} does not exist")
        return {f"tests/{p.name}": p.read_text(encoding="utf-8") for p in paths if p.is_file()}

    def lacking(self, test: str, recipes: Iterable[Recipe]) -> list[str]:
        """What a test imports of the course and the recipes do not bring."""
        there = {
            (f"playbook.{one.module.key.replace('/', '.')}", name)
            for recipe in recipes for one in recipe.lifted for part in one.parts for name in part.names
        }  # fmt: skip
        return [
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(test))
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "playbook"
            for alias in node.names
            if (node.module, alias.name) not in there
        ]


def combined(course: Course, recipes: Iterable[Recipe]) -> list[Lifted]:
    """The recipes' modules, those of the same page as one."""
    found: dict[str, list[Lifted]] = {}
    for recipe in recipes:
        for one in recipe.lifted:
            found.setdefault(one.module.key, []).append(one)
    together = []
    for key in (page.key for page in course.playbooks if page.key in found):
        module = found[key][0].module
        labels = {part.label for one in found[key] for part in one.parts}
        imports = {one for lifted in found[key] for one in lifted.imports}
        parts = tuple(part for part in module.parts if part.label in labels)
        together.append(Lifted(module, parts, tuple(one for one in module.imports.values() if one in imports)))
    return together


def findings(course: Course) -> list[str]:
    """What `playbook check` says about recipes: `path:line: what is wrong; what to do`."""
    try:
        lifter = Lifter(course)
    except InputError as error:
        return [str(error)]
    found: list[str] = []
    for page in course.playbooks:
        try:
            found += _findings(lifter, page)
        except InputError as error:
            found.append(f"playbook/{page.key}.py:1: {error}; lift only what is general")
    return found


def _findings(lifter: Lifter, page: Playbook) -> Iterator[str]:
    about = lifter.about.get(page.key, Metadata())
    if not lifter.closure.module(page.key).parts:
        return
    for part in lifter.closure.undeclared(page.key):
        what = f"{part.label} may be registered by its decorator, where no name refers to it"
        yield f"playbook/{page.key}.py:{part.line}: {what}; say in [lift.{page.name}.registrations] to what it belongs"
    recipe = lifter.recipe(page, lifter.roots(page))
    if recipe.over and not about.over:
        yield f"playbook/{page.key}.py:1: the recipe has {recipe.over}; cut it, or say why in [lift.{page.name}] over"
    for place, text in lifter.tests(recipe).items():
        if lacking := lifter.lacking(text, [recipe]):
            yield f"{TESTS}/{PurePosixPath(place).name}:1: needs {', '.join(lacking)}; use what the recipe brings"


# ---------------------------------------------------------------- a module's text


def _head(place: str, source: Provenance) -> str:
    return f"# From {place}, {source}.\n# {source.licence}; README.md has more.\n"


def module_text(resolve: Closure, lifted: Lifted, source: Provenance) -> str:
    """The text of a lifted module: two lines of provenance, the imports, the parts as the page has them."""
    page = lifted.module.key
    head = _head(f"playbook/{page}.py", source)
    imports = _import_block(resolve, page, lifted.imports)
    return head + (f"\n{imports}" if imports else "") + _body(lifted.parts, lifted.module.parts)


def _body(parts: Sequence[Part], all_parts: Sequence[Part]) -> str:
    text, before = "", None
    for part in parts:
        follows = before is not None and all_parts.index(part) == all_parts.index(before) + 1
        apart = 2 if part.definition or before is None or before.definition else 1
        space = part.space if follows and part.space >= 0 else apart
        if before is None and not part.definition:
            space = 1
        text += "\n" * space + part.text + "\n"
        before = part
    return text


def _import_block(resolve: Closure, page: str, imports: Iterable[Import]) -> str:
    """Imports in the order of isort: the future, the standard library, other libraries, the lifted modules."""
    plain: list[Statement] = []
    typed: list[Statement] = []
    for one in imports:
        (typed if one.typing_only else plain).append(_statement(resolve, page, one))
    if typed and not any(module == "typing" and name == "TYPE_CHECKING" for module, name, _ in plain):
        plain.append(("typing", "TYPE_CHECKING", ""))
    text = _sorted_imports(plain)
    if typed:
        text += "\nif TYPE_CHECKING:\n" + textwrap.indent(_sorted_imports(typed, WIDTH - 4), "    ")
    return text


Statement = tuple[str, str, str]  # module, name or "", `as` or ""


def _statement(resolve: Closure, page: str, one: Import) -> Statement:
    module, name = one.module, one.name or ""
    if module.partition(".")[0] == "playbook":
        origin = resolve.origin(page, one.binding)
        assert isinstance(origin, tuple)  # `Closure` has refused everything else
        beside = origin[0].rpartition("/")[2]
        module, name = (f".{beside}", origin[1]) if origin[1] else (".", beside)
    bound = name or (module if one.binding != module.partition(".")[0] else one.binding)
    return module, name, "" if one.binding == bound else one.binding


def _section(module: str) -> int:
    if module == "__future__":
        return 0
    if module.startswith("."):
        return 3
    return 1 if module.partition(".")[0] in sys.stdlib_module_names else 2


def _by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then the others: what isort calls `order-by-type`."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def _sorted_imports(statements: Iterable[Statement], width: int = WIDTH) -> str:
    sections: dict[int, tuple[set[str], dict[str, set[str]]]] = {}
    for module, name, bound in statements:
        whole, named = sections.setdefault(_section(module), (set(), {}))
        if name:
            # isort keeps `import x as y` in a statement of its own
            key, written = (f"{module} {name}", f"{name} as {bound}") if bound else (module, name)
            named.setdefault(key, set()).add(written)
        else:
            whole.add(f"{module} as {bound}" if bound else module)
    blocks = []
    for number in sorted(sections):
        whole, named = sections[number]
        lines = [f"import {module}" for module in sorted(whole, key=str.lower)]
        froms = [(key.split(" ")[0], sorted(names, key=_by_kind)) for key, names in named.items()]
        for module, names in sorted(froms, key=lambda pair: (pair[0].lower(), _by_kind(pair[1][0]))):
            lines.append(_from(module, names, width))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _from(module: str, names: Sequence[str], width: int) -> str:
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= width else f"from {module} import (\n" + "".join(f"    {n},\n" for n in names) + ")"


def test_text(text: str, source: Provenance, name: str) -> str:
    """A test of the course with its imports of pages made relative. The rest is as it is."""
    head = _head(f"{TESTS}/{name}", source)
    return head + "\n" + re.sub(r"^from playbook\.(?:\w+\.)*(\w+) import ", r"from ..\1 import ", text, flags=re.M)


# ---------------------------------------------------------------- requirements and README


def tools_of(tests: Iterable[str]) -> set[str]:
    """The libraries that the texts of `tests` import, pytest among them."""
    found = {"pytest"}
    for text in tests:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module}
    found |= {"httpx"} if found.intersection(TEST_CLIENTS) else set()
    return {name.partition(".")[0] for name in found} - {"playbook", *sys.stdlib_module_names}


def requirements(course: Course, imported: Iterable[str]) -> list[str]:
    """What `imported` modules are installed with: names with the lower bounds that the course is tested with."""
    tops = {module.partition(".")[0] for module in imported} - set(sys.stdlib_module_names)
    names = {distribution for top in tops for distribution in _distributions().get(top, [top])[:1]}
    written = _written_requirements(course)
    return sorted(written.get(_normal(name), name) for name in names)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _written_requirements(course: Course) -> dict[str, str]:
    """Requirements by name: as the course's own list has them, else at least the version that is pinned."""
    pins = course.root / "binder" / "requirements.txt"
    found = {}
    for line in pins.read_text(encoding="utf-8").split("\n") if pins.is_file() else ():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            found[_normal(match[1])] = f"{match[1]}>={match[2]}"
    project = _project(course)
    for requirement in project.get("dependencies") or importlib.metadata.requires(DISTRIBUTION) or ():
        name = re.match(r"[\w.-]+", requirement)
        if name and ";" not in requirement:
            found[_normal(name[0])] = requirement.replace(" ", "")
    return found


def _first_sentence(part: Part) -> str:
    node = part.node
    document = ast.get_docstring(node) if isinstance(node, (*closure.FUNCTIONS, ast.ClassDef)) else None
    return " ".join((document or "").split("\n\n")[0].split()).replace("|", "\\|")


def _plain(markdown: str) -> str:
    """Without links to pages, which do not come along."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", markdown)


def _readme_of(recipe: Recipe, package: str, tests: Sequence[str]) -> str:
    page = recipe.page
    used = closure.names_in(recipe.about.synopsis)
    public = [name for name in recipe.roots if not name.startswith("_") and not name.isupper()] or list(recipe.roots)
    shown = sorted([name for name in recipe.roots if name in used] or public[:8], key=_by_kind)
    use = f"from {package}.{page.name} import {', '.join(shown)}"
    if len(use) > WIDTH:
        use = f"from {package}.{page.name} import (\n" + "".join(f"    {name},\n" for name in shown) + ")"
    if recipe.about.synopsis:
        use += "\n\n" + recipe.about.synopsis.strip()
    lines = [f"## {page.title}", "", page.promise, "", "```python", use, "```", ""]
    lines += [f"{recipe.lines} lines in {recipe.modules} module{'s' if recipe.modules > 1 else ''}: "
              + ", ".join(f"`{one.module.key.rpartition('/')[2]}.py`" for one in recipe.lifted) + "."]  # fmt: skip
    if tests:
        lines += ["", f"Tests: {', '.join(f'`{name}`' for name in tests)}."]
    if recipe.about.seams:
        lines += ["", "### What it asks of your project", "", *(f"- {seam}" for seam in recipe.about.seams)]
    rows = [(part.label, _first_sentence(part)) for one in recipe.lifted for part in one.parts
            if one.module.key == page.key and part.definition]  # fmt: skip
    lines += ["", "| what | for |", "|---|---|", *(f"| `{label}` | {text} |" for label, text in rows)] if rows else []
    if section := page.section("Take it with you"):
        lines += ["", "### Take it with you", "", _plain(section.replace('\n"""', "").strip())]
    return "\n".join(lines) + "\n"


def readme_text(
    recipes: Sequence[Recipe],
    package: str,
    source: Provenance,
    needs: Sequence[str],
    tests: Mapping[str, list[str]],
    test_needs: Sequence[str] = (),
    licence: str = "",
) -> str:
    """The README of the folder: use, seams and hand-over of each recipe, requirements, what `playbook lifted` does."""
    listed = "".join(f"- `{need}`\n" for need in needs)
    listed = f"Python 3.11 or newer, and\n\n{listed}" if needs else "Python 3.11 or newer, and no library.\n"
    testing = f"\nThe tests need {', '.join(f'`{tool}`' for tool in test_needs)}.\n" if test_needs else ""
    parts = [
        "# Lifted from the Backend Playbook\n",
        textwrap.fill(
            f"These modules are yours: change them. They come from {source} ({source.licence}). "
            f"`{LOCK}` keeps the text of each symbol as it was; `playbook lifted` compares, and merges when asked.",
            WIDTH,
            break_on_hyphens=False,
        )
        + "\n",
        *(_readme_of(recipe, package, tests.get(recipe.page.key, [])) for recipe in recipes),
        f"## Requirements\n\n{listed}{testing}",
        f"## Licence\n\n{licence.strip()}\n" if licence else "",
    ]
    return "\n".join(part for part in parts if part)


# ---------------------------------------------------------------- the lock


@dataclass(frozen=True)
class LockedRecipe:
    roots: tuple[str, ...]
    security: bool
    modules: tuple[str, ...]  # files


@dataclass
class Lock:
    """What was lifted into a folder: the recipes, and the text of every file in parts, its head and its symbols."""

    recipes: dict[str, LockedRecipe] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    course: str = ""

    def dumps(self) -> str:
        recipes = {
            key: {"roots": list(one.roots), "security": one.security, "modules": list(one.modules)}
            for key, one in sorted(self.recipes.items())
        }
        files = {
            name: [{"symbol": symbol, "text": part} for symbol, part in in_parts(name, text)]
            for name, text in sorted(self.files.items())
        }
        content = {"version": VERSION, "course": self.course, "recipes": recipes, "files": files}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def in_parts(name: str, text: str) -> list[tuple[str, str]]:
    """The text of a file as `(symbol, its text)`, the head first with no symbol. Joined they are the text."""
    if not name.endswith(".py"):
        return [("", text)]
    found: list[tuple[str, str]] = []
    at = 0
    for part in closure.parse(text, name, page=False).parts:
        start = text.index(part.text, at)
        if not found:
            found.append(("", text[:start]))
            at = start
        found.append((part.label, text[at : start + len(part.text)]))
        at = start + len(part.text)
    if not found:
        return [("", text)]
    found[-1] = (found[-1][0], found[-1][1] + text[at:])
    return found


def _safe(name: object) -> bool:
    """Whether a name in the lock is a file that is written here: in the folder or its tests, and nowhere else."""
    return isinstance(name, str) and re.fullmatch(r"(?:tests/)?\w+\.py|README\.md", name) is not None


def read_lock(into: Path) -> Lock | None:
    """The lock of a folder, None when there is none. Raises InputError for one that cannot be read."""
    path = into / LOCK
    if path.is_symlink():
        raise InputError(f"{path} is a link: replace it by the file it names")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}; take it back from version control") from None
    if isinstance(raw, dict) and isinstance(raw.get("version"), int) and raw["version"] > VERSION:
        raise InputError(
            f"{path} has the form {raw['version']}, and this course knows {VERSION}: use the newer course that wrote it"
        )
    try:
        recipes = {
            str(key): LockedRecipe(tuple(map(str, one["roots"])), bool(one["security"]), tuple(one["modules"]))
            for key, one in raw["recipes"].items()
        }
        files = {name: "".join(part["text"] for part in parts) for name, parts in raw["files"].items()}
        lock = Lock(recipes, files, str(raw["course"]))
        modules = [name for one in recipes.values() for name in one.modules]
        right = raw["version"] == VERSION and all(map(_safe, [*files, *modules])) and files.keys() >= {*modules}
    except (KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise InputError(f"{path} is damaged: take it back from version control")
    return lock


# ---------------------------------------------------------------- what lands


@dataclass
class Plan:
    """What a lift writes. `left` are files that stay as they are, with the reason."""

    into: Path
    recipe: Recipe
    source: Provenance
    new: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    test_needs: list[str] = field(default_factory=list)

    @property
    def written(self) -> dict[str, str]:
        return {**self.new, **self.replaced}


def target(into: Path, course: Course) -> Path:
    """The folder to lift into, as an absolute path. Raises InputError for one that cannot be a package."""
    folder = Path(os.path.abspath(into)).resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{into} is a file: name a folder, which becomes a package")
    parent = next((p for p in folder.parents if p.exists()), folder)
    if not parent.is_dir():
        raise InputError(f"{parent} is a file, so {into} cannot be a folder in it")
    if not folder.name.isidentifier() or keyword.iskeyword(folder.name):
        fit = re.sub(r"\W", "_", folder.name).strip("_")
        hint = f"did you mean {fit}?" if fit.isidentifier() and not keyword.iskeyword(fit) else "use letters and _"
        raise InputError(f"{folder.name!r} cannot be a package's name: {hint}")
    if folder.is_relative_to((course.root / "playbook").resolve()):
        raise InputError(f"{into} is inside the course: name a folder of your own project")
    return folder


def _package(into: Path) -> str:
    """How the folder is imported: from the highest folder above it that is a package still, or from `src`."""
    names = [into.name]
    for parent in into.parents:
        if not (parent / "__init__.py").is_file():
            break
        names.append(parent.name)
    return ".".join(reversed(names))


def contents(lifter: Lifter, recipes: Sequence[Recipe], into: Path) -> tuple[dict[str, str], Provenance, list[str]]:
    """All files of these recipes but the lock, by their place in the folder; and which tests stay behind, and why."""
    course, source = lifter.course, provenance(lifter.course)
    modules = combined(course, recipes)
    files = {"__init__.py": ""}
    imported = {name for recipe in recipes for name in recipe.libraries}
    for one in modules:
        files[f"{one.module.key.rpartition('/')[2]}.py"] = module_text(lifter.closure, one, source)
    notes: list[str] = []
    tests: dict[str, list[str]] = {}
    for recipe in recipes:
        found = lifter.tests(recipe)
        for place, text in found.items():
            if lacking := lifter.lacking(text, recipes):
                notes.append(f"{place} stays behind: it needs {', '.join(lacking)}")
                continue
            files[place] = test_text(text, source, PurePosixPath(place).name)
            files["tests/__init__.py"] = ""
            tests.setdefault(recipe.page.key, []).append(place)
    needs = requirements(course, imported)
    path = course.root / "LICENSE"
    licence = path.read_text(encoding="utf-8") if path.is_file() else ""
    more = sorted(tools_of(text for place, text in files.items() if place.startswith("tests/test_")) - set(needs))
    extra = [need for need in requirements(course, more) if need not in needs] if tests else []
    files["README.md"] = readme_text(recipes, _package(into), source, needs, tests, extra, licence)
    return files, source, notes


def plan(course: Course, name: str, into: Path, only: Sequence[str] = ()) -> tuple[Plan, Lock]:
    """What `playbook lift` would do, and the lock that it would leave. Nothing is written.

    Raises InputError for a page or symbol that does not exist, and for a folder that holds something else.
    """
    page = course.get(name)
    lifter = Lifter(course)
    roots = lifter.roots(page, only)
    folder = target(into, course)
    lock = read_lock(folder) or Lock()
    before = lock.recipes.get(page.key)
    wanted = {key: one.roots for key, one in lock.recipes.items()}
    wanted[page.key] = tuple(dict.fromkeys([*(before.roots if before else ()), *roots]))
    recipes = [_again(lifter, key, names) for key, names in sorted(wanted.items())]
    recipe = next(one for one in recipes if one.page == page)
    files, source, notes = contents(lifter, recipes, folder)
    found = Plan(folder, recipe, source, notes=notes, needs=requirements(course, recipe.libraries))
    tested = [text for place, text in files.items() if place.startswith("tests/test_")]
    if tested:
        found.test_needs = [need for need in requirements(course, tools_of(tested)) if need not in found.needs]
    for place, text in files.items():
        _place(found, lock, place, text)
    after = Lock(dict(lock.recipes), dict(lock.files), str(source))
    after.files |= {place: text for place, text in files.items() if place not in found.left or place not in lock.files}
    for one in recipes:
        after.recipes[one.page.key] = _locked(one)
    for place in [place for place in after.files if found.left.get(place) == NOT_OURS]:
        del after.files[place]
    _lock_file(found, lock, after)
    return found, after


def _again(lifter: Lifter, key: str, roots: Sequence[str]) -> Recipe:
    try:
        page = lifter.course.get(key)
        lifter.roots(page, roots)
    except InputError as error:
        why = f"lifted before, and no longer in the course: {error}"
        raise InputError(f"{why}; first `playbook lifted INTO --merge`") from None
    return lifter.recipe(page, roots)


def _locked(recipe: Recipe) -> LockedRecipe:
    modules = tuple(f"{one.module.key.rpartition('/')[2]}.py" for one in recipe.lifted)
    return LockedRecipe(recipe.roots, recipe.about.security, modules)


NOT_OURS = "the project has its own"
CHANGED = "changed by you, and has everything that is needed"


def check_inside(into: Path, place: str) -> Path:
    """The path of a file in the folder. Raises InputError when a link or a folder stands in its way."""
    path = into
    for name in PurePosixPath(place).parts:
        path = path / name
        if path.is_symlink():
            raise InputError(f"{path} is a link: nothing is written through it; choose another folder")
        if path.exists() and path.is_dir() != (path != into / place):
            raise InputError(f"{path} is in the way of {place}: choose another folder")
    return path


def _on_disk(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def symbols(place: str, text: str) -> dict[str, str]:
    """The texts of a file's symbols; of a file that is not Python the whole."""
    if MARKERS.search(text) and place.endswith(".py"):
        line = text.count("\n", 0, MARKERS.search(text).start()) + 1  # type: ignore[union-attr]
        raise InputError(f"{place}, line {line}: a conflict is not settled: choose one side, remove the marks")
    if not place.endswith(".py"):
        return {"": text}
    return {part.label: part.text for part in closure.parse(text, place, page=False).parts}


def _place(found: Plan, lock: Lock, place: str, text: str) -> None:
    """Decide what becomes of one file: new, replaced, or left as it is."""
    path = check_inside(found.into, place)
    there, base = _on_disk(path), lock.files.get(place)
    if there == text:
        found.left[place] = "is there already"
    elif there is None and base is None:
        found.new[place] = text
    elif there is not None and place in PACKAGE_FILES and base is None:
        found.left[place] = NOT_OURS
    elif base is None:
        raise InputError(f"{path} exists with other content: choose another folder, or move it away")
    elif place == "README.md":
        if there == base:
            found.replaced[place] = text
        else:
            found.left[place] = CHANGED
    else:
        _extend(found, place, path, there, base, text)


def _extend(found: Plan, place: str, path: Path, there: str | None, base: str, text: str) -> None:
    """A file of an earlier lift: it may gain symbols, as long as nobody has changed it."""
    old, new = symbols(place, base), symbols(place, text)
    moved = [label for label in old if label in new and closure.normal(old[label]) != closure.normal(new[label])]
    if moved:
        raise InputError(
            f"{', '.join(moved[:3])} of {place} changed in the course since: "
            f"first `playbook lifted {found.into} --merge`"
        )
    lacking = [label for label in new if label not in old]
    if there is None and lacking:
        raise InputError(f"{path} was lifted and is gone: take it back from version control, or choose another folder")
    if there is not None and there == base:
        if lacking:
            found.replaced[place] = text
        else:
            found.left[place] = "is there already"
    elif not lacking:
        found.left[place] = CHANGED if there is not None else "was removed by you"
    else:
        raise InputError(f"{path} was changed by you and lacks {', '.join(lacking[:3])}: choose another folder")


def _lock_file(found: Plan, before: Lock, after: Lock) -> None:
    text, path = after.dumps(), check_inside(found.into, LOCK)
    there = _on_disk(path)
    if there is None:
        found.new[LOCK] = text
    elif there != text and (found.new or found.replaced or before.recipes != after.recipes):
        found.replaced[LOCK] = text


# ---------------------------------------------------------------- write


def write(into: Path, new: Mapping[str, str], replaced: Mapping[str, str]) -> None:
    """Write all files or none: into a temporary folder first, then moved to their places, the lock last.

    Raises InputError when the system refuses.
    """
    if not new and not replaced:
        return
    try:
        if into.is_dir() and any(into.iterdir()):
            _write_among(into, new, replaced)
        else:
            _write_folder(into, new)
    except FileExistsError as error:
        raise InputError(f"{error.filename2 or error.filename} was made meanwhile: nothing is written") from None
    except OSError as error:
        raise InputError(f"cannot write to {into}: {error.strerror or error}; nothing is written") from None


def _in_order(places: Iterable[str]) -> list[str]:
    return sorted(places, key=lambda place: (place == LOCK, place))


def _fill(folder: Path, files: Mapping[str, str]) -> None:
    for place in _in_order(files):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[place], encoding="utf-8", newline="\n")


def _write_folder(into: Path, new: Mapping[str, str]) -> None:
    """A folder that is not there, or empty: made beside it, and moved as a whole."""
    made = [parent for parent in reversed(into.parents) if not parent.exists()]
    beside = ""
    try:
        for parent in made:
            parent.mkdir()
        beside = tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent)
        _fill(Path(beside), new)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o777 & ~mask)  # it was made for its owner alone
        if into.is_dir():
            into.rmdir()
        os.rename(beside, into)
    except BaseException:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)
        for parent in reversed(made):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _write_among(into: Path, new: Mapping[str, str], replaced: Mapping[str, str]) -> None:
    """Into a folder with other files: each file is moved to its place whole, and back again when one fails."""
    with tempfile.TemporaryDirectory(prefix=".lift.", dir=into) as beside:
        fresh, kept = Path(beside, "new"), Path(beside, "old")
        for folder, files in ((fresh, {**new, **replaced}), (kept, {})):
            folder.mkdir()
            _fill(folder, files)
        undo: list[tuple[Path, Path | None]] = []
        try:
            for place in _in_order([*new, *replaced]):
                path = into / place
                if not path.parent.is_dir():
                    path.parent.mkdir()
                    undo.append((path.parent, None))
                if place in replaced:
                    old = kept / place.replace("/", "-")
                    shutil.copy2(path, old)
                    undo.append((path, old))
                    os.replace(fresh / place, path)
                else:
                    undo.append((path, None))
                    _move(fresh / place, path, undo)
        except BaseException:
            _take_back(undo)
            raise


def _move(source: Path, path: Path, undo: list[tuple[Path, Path | None]]) -> None:
    """Move a file to where none is. Raises FileExistsError when there is one, which then stays."""
    try:
        os.link(source, path)
    except FileExistsError:
        undo.pop()
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            undo.pop()
            raise FileExistsError(17, "exists", str(path)) from None
        os.rename(source, path)


def _take_back(undo: list[tuple[Path, Path | None]]) -> None:
    for path, old in reversed(undo):
        if old is not None:
            os.replace(old, path)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- later: what has changed


SAME, YOURS, COURSE, BOTH, GONE = "same", "changed by you", "changed in the course", "both", "gone"


@dataclass(frozen=True)
class Change:
    """A symbol of a lifted file: its text as lifted, in the project and in the course now; None where it is not."""

    place: str
    symbol: str
    base: str | None
    yours: str | None
    course: str | None

    @cached_property
    def state(self) -> str:
        base, yours, course = (text if text is None else closure.normal(text) for text in self._texts)
        if self.base is None:
            return SAME if yours == course else COURSE  # the recipe needs more than it did
        if yours is None or course is None:
            return GONE
        mine, theirs = yours != base, course != base
        if yours == course:
            return SAME
        return BOTH if mine and theirs else YOURS if mine else COURSE if theirs else SAME

    @property
    def _texts(self) -> tuple[str | None, str | None, str | None]:
        return self.base, self.yours, self.course

    @property
    def in_course(self) -> bool:
        """Whether the course has another text than the one that was lifted, and the project has not taken it."""
        if self.state == GONE:
            return self.course is None or closure.normal(self.course) != closure.normal(self.base or "")
        return self.state in (COURSE, BOTH)

    @property
    def explained(self) -> str:
        """The state, and more where one word is too little."""
        if self.state == COURSE and self.base is None:
            return f"{COURSE} (new)"
        if self.state != GONE:
            return self.state
        where = [name for name, text in (("your project", self.yours), ("the course", self.course)) if text is None]
        return f"{GONE} from {' and '.join(where)}"

    @property
    def differences(self) -> list[str]:
        """The lines of both differences from the common base."""
        lines = []
        for name, text in (("yours", self.yours), ("course", self.course)):
            if self.state != SAME and text is not None and closure.normal(text) != closure.normal(self.base or ""):
                before, after = (self.base or "").split("\n"), text.split("\n")
                lines += list(unified_diff(before, after, "as lifted", name, lineterm="", n=2))
        return lines


@dataclass
class Comparison:
    """A folder beside the course: the lock, the course's files now, the project's texts, and every symbol's change."""

    into: Path
    lock: Lock
    now: dict[str, str]
    yours: dict[str, str | None]
    changes: list[Change]
    source: Provenance
    security: list[str]  # pages marked `security` whose recipe has changed in the course
    problems: list[str]  # recipes that the course no longer has
    recipes: list[Recipe]  # those that it has


def compare(course: Course, into: Path) -> Comparison:
    """Compare what was lifted into a folder with the course.

    Raises InputError when nothing was lifted, a file is not Python, or a conflict is not settled.
    """
    folder = Path(os.path.abspath(into)).resolve()
    if not folder.is_dir():
        raise InputError(f"{into} is not a folder: name the one that `playbook lift` wrote into")
    lock = read_lock(folder)
    if lock is None:
        raise InputError(f"{folder / LOCK} does not exist: nothing was lifted into this folder")
    lifter, recipes, problems = Lifter(course), [], []
    for key, one in lock.recipes.items():
        try:
            page = course.get(key)
        except InputError:
            problems.append(f"{key} is no longer in the course")
            continue
        names = lifter.closure.module(page.key).by_name
        problems += [f"{key} exports {root} no longer" for root in one.roots if root not in names]
        recipes.append(lifter.recipe(page, [root for root in one.roots if root in names]))
    files, source, _ = contents(lifter, recipes, folder)
    now = {place: text for place, text in files.items() if place.endswith(".py") and place not in PACKAGE_FILES}
    places = [place for place in lock.files if place.endswith(".py") and place not in PACKAGE_FILES]
    yours = {place: _on_disk(check_inside(folder, place)) for place in dict.fromkeys([*places, *now])}
    changes = [change for place in yours for change in _changes(place, lock, now, yours)]
    changed = {change.place for change in changes if change.in_course}
    marked = {key for key, one in lock.recipes.items() if one.security}
    marked |= {recipe.page.key for recipe in recipes if recipe.about.security}
    of = {key: {*lock.recipes[key].modules} for key in marked}
    for recipe in recipes:
        if recipe.page.key in of:
            of[recipe.page.key] |= {*_locked(recipe).modules}
    security = [key for key in lock.recipes if key in of and (of[key] & changed or f"{key} is" in " ".join(problems))]
    return Comparison(folder, lock, now, yours, changes, source, security, problems, recipes)


def _changes(place: str, lock: Lock, now: Mapping[str, str], yours: Mapping[str, str | None]) -> Iterator[Change]:
    base = symbols(place, lock.files[place]) if place in lock.files else {}
    mine = yours[place]
    own = symbols(place, mine) if mine is not None else {}
    course = symbols(place, now[place]) if place in now else {}
    for label in dict.fromkeys([*base, *course]):
        yield Change(place, label, base.get(label), own.get(label), course.get(label))


def merge(found: Comparison) -> tuple[list[str], list[str]]:
    """Merge the course's changes into the project's files; which were written, and which of them have conflicts.

    Three ways, line by line; where both changed the same lines, both stand between conflict marks. A file that the
    project has removed is not made again. Files without changes in the course are not touched.
    """
    new, replaced, conflicts = {}, {}, []
    for place in dict.fromkeys(change.place for change in found.changes if change.in_course):
        yours, now, base = found.yours[place], found.now.get(place), found.lock.files.get(place)
        if now is None:
            continue  # gone from the course: the project's stays
        if yours is None:
            if base is None:
                new[place] = now
            continue
        if base is None and yours != now:
            raise InputError(f"{found.into / place} exists with other content, and the recipe needs it: move it away")
        text, clean = _merged(base or "", yours, now, str(found.source)) if base is not None else (now, True)
        if text != yours:
            replaced[place] = text
        if not clean:
            conflicts.append(place)
        found.lock.files[place] = now
    written = _in_order([*new, *replaced])
    found.lock.files |= new
    # A page or symbol that has left the course is the project's alone from now on.
    found.lock.recipes = {recipe.page.key: _locked(recipe) for recipe in found.recipes if recipe.roots}
    found.lock.course = str(found.source)
    replaced[LOCK] = found.lock.dumps()
    write(found.into, new, replaced)
    return written, conflicts


def _merged(base: str, yours: str, course: str, source: str) -> tuple[str, bool]:
    from merge3 import Merge3

    merger = Merge3(base.splitlines(True), yours.splitlines(True), course.splitlines(True))
    groups = list(merger.merge_groups())
    text = "".join(merger.merge_lines("yours", source, "as lifted", base_marker="|||||||"))
    return text, all(group[0] != "conflict" for group in groups)
