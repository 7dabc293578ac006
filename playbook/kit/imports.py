"""What imports what, read from the sources: recipes below, Pantry above, and nothing that runs back up.

A page counts with its export cells, which is what importing it runs. The kit and the exercises are left out: no recipe
needs them.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from playbook.kit.course import Course
from playbook.kit.display import Shown, mermaid
from playbook.kit.hook import exported

Graph = dict[str, set[str]]  # by module, without `playbook.`: the modules that it imports
LEFT_OUT = ("kit", "exercises")
PANTRY = "pantry"


def modules(root: Path) -> dict[str, Path]:
    """The modules of the package, by name without `playbook.`; packages by their folder's name."""
    found = {}
    for path in sorted((root / "playbook").rglob("*.py")):
        parts = path.relative_to(root / "playbook").with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and parts[0] not in LEFT_OUT and "versions" not in parts:
            found[".".join(parts)] = path
    return found


def imports_of(source: str, known: Iterable[str]) -> set[str]:
    """The modules among `known` that `source` imports, wherever it does."""
    names = set(known)
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("playbook.") for name in found} & names


def graph(root: Path) -> Graph:
    """Every module with what it imports. A folder that is imported for one of its modules does not count."""
    known = modules(root)
    found = {}
    for name, path in known.items():
        source = path.read_text(encoding="utf-8")
        if "# %%" in source:
            source = exported(source)
        named = imports_of(source, known) - {name}
        found[name] = {n for n in named if not any(other.startswith(f"{n}.") for other in named)}
    return found


def is_pantry(module: str) -> bool:
    return module == PANTRY or module.startswith(f"{PANTRY}.")


def upward(course: Course, edges: Graph) -> Iterator[str]:
    """Every import that runs back up: from a recipe to Pantry, or to a page that comes later; and every circle."""
    place = {p.key.replace("/", "."): number for number, p in enumerate(course.playbooks)}
    for module, named in edges.items():
        for other in sorted(named):
            if is_pantry(other) and not is_pantry(module) and module in place:
                yield f"{module} is a recipe and imports {other}"
            elif place.get(other, -1) > place.get(module, len(place)):
                yield f"{module} imports {other}, which comes later"
    for circle in circles(edges):
        yield f"a circle: {' -> '.join([*circle, circle[0]])}"


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, each circle once (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in sorted(edges.get(module, ())):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            at = stack.index(module)
            members = stack[at:]
            del stack[at:]
            if len(members) > 1:
                found.append(sorted(members))

    for module in sorted(edges):
        if module not in number:
            visit(module)
    return found


def diagram(course: Course, edges: Graph, track: str = "") -> Shown:
    """Recipes below, Pantry above, as Mermaid. With `track` (`api`, `pantry`) only its modules and their neighbours."""
    if not track:
        edges = by_folder(edges)
    else:
        edges = {m: {o for o in named if in_track(m, track) or in_track(o, track)} for m, named in edges.items()}
        edges = {m: named for m, named in edges.items() if named or in_track(m, track)}
    names = sorted({name for module, named in edges.items() if named for name in (module, *named)})
    recipes = [name for name in names if not is_pantry(name)]
    service = [name for name in names if is_pantry(name)]
    lines = ["flowchart BT"]
    for title, members in (("recipes", recipes), ("Pantry", service)):
        if members:
            lines += [f"  subgraph {title}", *(f"    {identifier(name)}[{name}]" for name in members), "  end"]
    for module in sorted(edges):
        lines += [f"  {identifier(other)} --> {identifier(module)}" for other in sorted(edges[module])]
    return mermaid("\n".join(lines))


def by_folder(edges: Graph) -> Graph:
    """The same, with a node for each folder in place of each module."""
    found: Graph = {}
    for module, named in edges.items():
        here = folder_of(module)
        found.setdefault(here, set()).update({folder_of(other) for other in named} - {here})
    return {name: named for name, named in found.items() if name}


def folder_of(module: str) -> str:
    if is_pantry(module):
        return "pantry.auth" if module.startswith("pantry.auth") else PANTRY
    return module.partition(".")[0]


def in_track(module: str, track: str) -> bool:
    return module == track or module.startswith(f"{track}.")


def identifier(name: str) -> str:
    return name.replace(".", "_")
