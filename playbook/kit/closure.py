"""What a set of symbols needs: the closure over the syntax trees of the course's `export` cells.

A page is split into parts, one for each top-level statement, with its source text and comments as they are written.
A part needs the names that its code, annotations, decorators and base classes refer to, and the exported symbols that
its strings name (forward references, `relationship("User")`). Names are resolved through the pages' imports.
Nothing is imported or run.
"""

import ast
import io
import re
import symtable
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from itertools import pairwise

from playbook.kit import hook
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Decorators that only change what they decorate. Any other one may register it somewhere, where no name refers to it.
PURE = frozenset(
    {
        "abstractmethod", "asynccontextmanager", "cache", "cached_property", "contextmanager", "dataclass",
        "dataclass_transform", "deprecated", "final", "lru_cache", "overload", "override", "runtime_checkable",
        "singledispatch", "total_ordering", "unique", "wraps",
    }
)  # fmt: skip
TYPE_CHECKING = re.compile(r"(?:typing\.)?TYPE_CHECKING")

Symbol = tuple[str, str]  # a page's key, and a name that its exports bind


@dataclass(frozen=True)
class Import:
    """One name that an import statement binds. `name` is None for `import module`."""

    binding: str
    module: str
    name: str | None = None
    typing_only: bool = False  # stands under `if TYPE_CHECKING:`


@dataclass(frozen=True)
class Part:
    """One top-level statement: `label` is how reports name it, `text` its lines with the comments above them.

    `line` is where the statement begins in the source, decorators included.
    """

    label: str
    names: tuple[str, ...]
    line: int
    text: str
    space: int  # blank lines before it in its cell; -1 for the first of a cell
    node: ast.stmt = field(compare=False, repr=False)

    @property
    def definition(self) -> bool:
        return isinstance(self.node, (*FUNCTIONS, ast.ClassDef))

    @cached_property
    def needs(self) -> frozenset[str]:
        """The global names that its code and annotations refer to."""
        return frozenset(_globals(self.text) | _in_annotations(self.node))

    @cached_property
    def strings(self) -> frozenset[str]:
        """The names in those of its strings that read like a type. Docstrings are not among them."""
        return frozenset(_in_strings(self.node))

    @cached_property
    def attributes(self) -> frozenset[tuple[str, str]]:
        """`(name, attribute)` for every `name.attribute`."""
        found = (n for n in ast.walk(self.node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
        return frozenset((n.value.id, n.attr) for n in found if isinstance(n.value, ast.Name))

    @cached_property
    def inner_imports(self) -> frozenset[str]:
        """The modules that it imports when it runs."""
        nodes = list(ast.walk(self.node))
        plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        return frozenset(plain | {n.module or "." for n in nodes if isinstance(n, ast.ImportFrom)})

    @cached_property
    def lines(self) -> int:
        """How many lines of text it has, without blank ones."""
        return sum(bool(line.strip()) for line in self.text.split("\n"))


@dataclass(frozen=True)
class Module:
    """The exports of one page, or any module's text, in parts. `imports` are by the names that they bind."""

    key: str
    parts: tuple[Part, ...]
    imports: Mapping[str, Import]

    @cached_property
    def by_name(self) -> dict[str, list[Part]]:
        found: dict[str, list[Part]] = {}
        for part in self.parts:
            for name in part.names:
                found.setdefault(name, []).append(part)
        return found

    @property
    def names(self) -> list[str]:
        """All names that the exports bind, in the order of the page."""
        return list(self.by_name)


# ---------------------------------------------------------------- a text in parts


def _targets(node: ast.AST) -> Iterator[str]:
    """The names that an assignment's target binds. `a.b = ...` and `a[b] = ...` bind none."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Tuple | ast.List):
        for element in node.elts:
            yield from _targets(element)
    elif isinstance(node, ast.Starred):
        yield from _targets(node.value)


def _bound(node: ast.stmt) -> tuple[str, ...]:
    """The module's names that a statement binds."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, ast.Assign):
        return tuple(name for target in node.targets for name in _targets(target))
    if isinstance(node, ast.AnnAssign):
        return tuple(_targets(node.target))
    if isinstance(node, ast.Import | ast.ImportFrom):
        return tuple((alias.asname or alias.name).split(".")[0] for alias in node.names)
    if isinstance(node, ast.AugAssign | ast.Expr | ast.Delete):
        return ()
    if type(node).__name__ == "TypeAlias":  # Python 3.12's `type X = ...`
        return tuple(_targets(node.name))  # type: ignore[attr-defined]
    inner = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
    return tuple(dict.fromkeys(name for child in inner for name in _bound(child)))


def _first_line(node: ast.stmt) -> int:
    decorated = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.decorator_list
    return decorated[0].lineno if decorated else node.lineno


def _label(node: ast.stmt, names: tuple[str, ...]) -> str:
    """What a report calls a statement: its names, or the beginning of its text."""
    if names:
        return ", ".join(names)
    if isinstance(node, ast.AugAssign):
        return f"{ast.unparse(node.target)} (changed)"
    if isinstance(node, ast.Assign):
        return f"{ast.unparse(node.targets[0])} = ..."
    return ast.unparse(node).split("\n")[0][:60]


def _under_type_checking(node: ast.stmt) -> list[ast.stmt]:
    """The imports of an `if TYPE_CHECKING:` that holds nothing else; empty for any other statement."""
    if not (isinstance(node, ast.If) and not node.orelse and TYPE_CHECKING.fullmatch(ast.unparse(node.test))):
        return []
    return node.body if all(isinstance(child, ast.Import | ast.ImportFrom) for child in node.body) else []


def _imports(node: ast.stmt, key: str, typing_only: bool = False) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname is None and alias.name.startswith("playbook."):
                raise InputError(f"{key}, line {node.lineno}: `import {alias.name}`; write `from ... import ...`")
            binding = alias.asname or alias.name.split(".")[0]
            yield Import(binding, alias.name, None, typing_only)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if node.level or alias.name == "*":
                raise InputError(f"{key}, line {node.lineno}: `{ast.unparse(node)}` cannot be lifted; name the imports")
            yield Import(alias.asname or alias.name, node.module or "", alias.name, typing_only)


def _statements(text: str, key: str) -> list[list[ast.stmt]]:
    """The statements of a text, those that share a line together."""
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise InputError(f"{key}, line {error.lineno}: not Python: {error.msg}") from None
    groups: list[list[ast.stmt]] = []
    for node in body:
        if groups and _first_line(node) <= (groups[-1][-1].end_lineno or 0):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _blocks(source: str) -> Iterator[tuple[int, str]]:
    """The export cells of a page with their first lines."""
    lines = source.split("\n")
    for cell in hook.cells(source):
        if "export" in cell.tags and not cell.markdown:
            yield cell.start + 1, "\n".join(lines[cell.start : cell.stop])


def _trimmed(lines: list[str]) -> list[str]:
    """Without blank lines at either end."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


@lru_cache(maxsize=256)
def parse(source: str, key: str, page: bool = True) -> Module:
    """The exports of a page in parts; with `page=False` a whole module, whatever it imports.

    Raises InputError for a text that is not Python, and on a page for imports that cannot be taken along.
    """
    parts: list[Part] = []
    imports: dict[str, Import] = {}
    for first, text in _blocks(source) if page else [(1, source)]:
        lines = text.split("\n")
        groups = _statements(text, key)
        start, space = 0, -1  # of what belongs to the next statement
        for group, after in pairwise([*groups, []]):
            stop = group[-1].end_lineno or 0
            if not after and any(line.strip() for line in lines[stop:]):
                stop = len(lines)  # comments below the last statement are its own
            own = lines[start:stop]
            blank = next((n for n, line in enumerate(own) if line.strip()), 0)
            space, start = (blank if start or space >= 0 else -1), stop
            typed = [child for node in group for child in _under_type_checking(node)]
            if typed or isinstance(group[0], ast.Import | ast.ImportFrom):
                if page:
                    for node in group:
                        for one in _imports(node, key):
                            _add(imports, one, key)
                    for node in typed:
                        for one in _imports(node, key, True):
                            _add(imports, one, key)
                space = -1
                continue
            if _is_docstring(group[0]) and not parts:
                continue
            names = tuple(dict.fromkeys(name for node in group for name in _bound(node)))
            node = group[0] if len(group) == 1 else ast.If(ast.Constant(True), list(group), [])
            label = _label(group[0], names)
            parts.append(Part(label, names, first + _first_line(group[0]) - 1, "\n".join(_trimmed(own)), space, node))
            space = 0
    if page and (twice := next((name for part in parts for name in part.names if name in imports), "")):
        raise InputError(f"{key}: {twice!r} is imported and defined; give one of the two another name")
    return Module(key, tuple(_told_apart(parts)), imports)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _add(imports: dict[str, Import], one: Import, key: str) -> None:
    there = imports.get(one.binding)
    if there is not None and (there.module, there.name) != (one.module, one.name):
        # `import a.b` and `import a.c` both bind `a`
        if not all(i.name is None and i.module.partition(".")[0] == i.binding for i in (there, one)):
            raise InputError(f"{key}: two imports are called {one.binding!r}; give one of them another name")
        imports[f"{one.binding} {one.module}"] = one
    elif there is None or there.typing_only:
        imports[one.binding] = one


def _told_apart(parts: list[Part]) -> Iterator[Part]:
    """Labels that occur twice get a number."""
    seen: dict[str, int] = {}
    for part in parts:
        seen[part.label] = number = seen.get(part.label, 0) + 1
        label = part.label if number == 1 else f"{part.label} #{number}"
        yield Part(label, part.names, part.line, part.text, part.space, part.node)


# ---------------------------------------------------------------- what a part refers to


def _globals(text: str) -> set[str]:
    """The global names that code refers to; what a function binds itself is not among them."""
    found: set[str] = set()
    waiting = [symtable.symtable(text, "<part>", "exec")]
    while waiting:
        table = waiting.pop()
        outer = table.get_type() in ("module", "class")
        for symbol in table.get_symbols():
            if symbol.is_global() or (outer and symbol.is_referenced()):
                found.add(symbol.get_name())
        waiting += table.get_children()
    return found


def names_in(code: str) -> set[str]:
    """The global names that code refers to."""
    return _globals(code)


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.walk(node):
        for name in ("annotation", "returns"):
            if isinstance(written := getattr(child, name, None), ast.expr):
                yield written
        if isinstance(child, ast.Call) and child.args and _last_name(child) in ("cast", "TypeVar"):
            yield from child.args
            yield from (keyword.value for keyword in child.keywords)


def _in_annotations(node: ast.AST) -> set[str]:
    """The names in annotations and in the strings that stand for them."""
    found: set[str] = set()
    for annotation in _annotations(node):
        for child in ast.walk(annotation):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                found |= _read_as_type(child.value)
    return found


def _read_as_type(text: str) -> set[str]:
    """The names in a string that reads like a type: `User`, `User.id`, `list[User]`, `User | None`."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return set()
    if not isinstance(tree.body, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp):
        return set()
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


def _in_strings(node: ast.AST) -> set[str]:
    docstrings = {
        id(child.body[0].value)
        for child in ast.walk(node)
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)) and isinstance(child.body[0], ast.Expr)
    }
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str) and id(child) not in docstrings:
            found |= _read_as_type(child.value)
    return found


def normal(text: str) -> object:
    """What two texts have in common that differ in layout only: the syntax tree and the comments, without blank lines.

    A text that is not Python is itself, without the spaces at the ends of its lines.
    """
    try:
        tree = ast.dump(ast.parse(text))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return tree, tuple(t.string for t in tokens if t.type == tokenize.COMMENT)
    except (SyntaxError, tokenize.TokenError):
        return "\n".join(line.rstrip() for line in text.strip().split("\n"))


# ---------------------------------------------------------------- the closure


@dataclass(frozen=True)
class Lifted:
    """What goes along from one page: parts in the order of the page, and the imports that they use."""

    module: Module
    parts: tuple[Part, ...]
    imports: tuple[Import, ...]


class Closure:
    """Follows names through the pages of a course. `registrations` are by page: a function's name, what it belongs to.

    A registration goes along when one of the symbols that it belongs to does. A function whose decorator may register
    it and which is not in `registrations` goes along with its page, whatever is lifted of it.
    """

    def __init__(self, course: Course, registrations: Mapping[str, Mapping[str, list[str]]] | None = None) -> None:
        self._pages = {page.module: page for page in course.playbooks}
        self._keys = {page.key: page for page in course.playbooks}
        self._registrations = registrations or {}

    def module(self, key: str) -> Module:
        return parse(self._keys[key].source, key)

    def origin(self, key: str, name: str) -> Symbol | Import | None:
        """What `name` means on a page: a symbol of the course, a library's import, or nothing (a builtin).

        A module of the course, imported whole, is a symbol without a name.
        """
        module = self.module(key)
        if name in module.by_name:
            return key, name
        found = module.imports.get(name)
        if found is None or found.module.partition(".")[0] != "playbook":
            return found
        return self._of_the_course(key, found)

    def _of_the_course(self, key: str, found: Import) -> Symbol:
        whole = found.module if found.name is None else f"{found.module}.{found.name}"
        if whole in self._pages:
            return self._pages[whole].key, ""
        page = self._pages.get(found.module)
        if page is None:
            raise InputError(f"{key} imports {whole}, which is no page of the course, so it cannot be lifted")
        origin = self.origin(page.key, found.name or "")
        if isinstance(origin, tuple):
            return origin
        raise InputError(f"{key} imports {found.name!r} from {page.key}, which does not export it")

    def _names(self, key: str, part: Part) -> frozenset[str]:
        """The names that a part refers to in code and annotations, and the types that any of its strings names.

        A string like "transaction" that happens to be a function's name means something else: strings name types.
        """
        module = self.module(key)
        named = {name for name in part.strings if name in module.by_name or name in module.imports}
        return part.needs | {name for name in named if self._is_type(self.origin(key, name))}

    def _is_type(self, origin: Symbol | Import | None) -> bool:
        if not isinstance(origin, tuple) or not origin[1]:
            return False
        parts = self.module(origin[0]).by_name[origin[1]]
        alias = origin[1][0].isupper() and not origin[1].isupper()  # `MailType = Literal[...]`, but no constant
        return alias or any(isinstance(part.node, ast.ClassDef) for part in parts)

    def _needed(self, key: str, part: Part) -> Iterator[Symbol]:
        """The symbols of the course that a part refers to."""
        if late := next((m for m in part.inner_imports if m.partition(".")[0] in ("playbook", "")), ""):
            raise InputError(f"{key}: {part.label} imports {late} when it runs; import it at the top of a cell")
        attributes: dict[str, list[str]] = {}
        for name, attribute in part.attributes:
            attributes.setdefault(name, []).append(attribute)
        for name in sorted(self._names(key, part)):
            origin = self.origin(key, name)
            if not isinstance(origin, tuple):
                continue
            if origin[1]:
                yield origin
                continue
            for attribute in attributes.get(name) or self.module(origin[0]).names:
                inner = self.origin(origin[0], attribute)
                if isinstance(inner, tuple):
                    yield inner

    def registers_at(self, key: str, part: Part) -> list[Symbol] | None:
        """The symbols that bring a part along though no name refers to it; None for a part that registers nothing."""
        declared = self._registrations.get(key, {})
        if any(name in declared for name in part.names):
            return [(key, symbol) for name in part.names for symbol in declared.get(name, ())]
        node = part.node
        if isinstance(node, ast.AugAssign):
            return self._symbols(key, [node.target])
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            registering = [d for d in node.decorator_list if _last_name(d) not in PURE]
            if not registering:
                return None
            of_the_course = [s for d in registering for s in self._symbols(key, [d])]
            if any(isinstance(d, ast.Call) for d in registering) or not of_the_course:
                return of_the_course
            return None  # `@decorator` of the course: it wraps
        if part.names:
            return None
        if isinstance(node, ast.Assign):
            return self._symbols(key, node.targets)
        return self._symbols(key, [node])

    def _symbols(self, key: str, nodes: Iterable[ast.AST]) -> list[Symbol]:
        """The symbols of the course at the root of what is called, changed, or given as first argument."""
        found = []
        for node in nodes:
            for name in _roots(node):
                origin = self.origin(key, name)
                if isinstance(origin, tuple):
                    found.append(origin)
        return found

    def undeclared(self, key: str) -> list[Part]:
        """The functions of a page that a library's decorator may register, and that its metadata does not name."""
        declared = self._registrations.get(key, {})
        parts = [part for part in self.module(key).parts if part.definition and part.names[0] not in declared]
        return [part for part in parts if self.registers_at(key, part) == []]

    def of(self, roots: Iterable[Symbol]) -> list[Lifted]:
        """Everything that `roots` need, by page in course order."""
        kept: set[tuple[str, str]] = set()  # pages and labels
        symbols: set[Symbol] = set()
        waiting = list(roots)
        while waiting:
            while waiting:
                symbol = waiting.pop()
                if symbol in symbols:
                    continue
                symbols.add(symbol)
                for part in self.module(symbol[0]).by_name[symbol[1]]:
                    waiting += self._keep(kept, symbol[0], part)
            for key in {key for key, _ in kept}:
                for part in self.module(key).parts:
                    if (key, part.label) not in kept and self._comes_along(key, part, symbols):
                        waiting += [*((key, name) for name in part.names), *self._keep(kept, key, part)]
        order = [key for key in self._keys if any(key == of for of, _ in kept)]
        return [self._lifted(key, kept) for key in order]

    def _keep(self, kept: set[tuple[str, str]], key: str, part: Part) -> list[Symbol]:
        if (key, part.label) in kept:
            return []
        kept.add((key, part.label))
        return [*((key, name) for name in part.names), *self._needed(key, part)]

    def _comes_along(self, key: str, part: Part, symbols: set[Symbol]) -> bool:
        belongs = self.registers_at(key, part)
        return belongs is not None and (not belongs or any(symbol in symbols for symbol in belongs))

    def _lifted(self, key: str, kept: set[tuple[str, str]]) -> Lifted:
        module = self.module(key)
        parts = tuple(part for part in module.parts if (key, part.label) in kept)
        used = {name for part in parts for name in self._names(key, part)}
        imports = tuple(one for binding, one in module.imports.items() if binding.split(" ")[0] in used)
        return Lifted(module, parts, imports)


def _last_name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def _roots(node: ast.AST) -> Iterator[str]:
    """The name at the root of `a.b[c](...)`, and of the first argument of a call to it."""
    if isinstance(node, ast.Expr):
        node = node.value
    if isinstance(node, ast.Call) and node.args:
        yield from _roots(node.args[0])
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def known(page: Playbook, module: Module, names: Iterable[str]) -> None:
    """Raises InputError for a name that the page does not export, with the nearest that it does."""
    for name in names:
        if name not in module.by_name:
            near = get_close_matches(name, module.names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it exports {', '.join(module.names)}"
            raise InputError(f"{page.key} exports no {name!r}: {hint}")
