"""The rules every page keeps, as functions that return findings: `path:line: what is wrong; what to do`.

Here are the rules of all pages, of the landing page and of the course as a whole; those of lessons are in
`playbook.kit.anatomy`. `findings` runs all of them but the comparison of texts and notebooks, which is `drift`: a
notebook that was edited without its text is bad input, not a page that breaks a rule.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator

from playbook.kit import anatomy, answers, glossary, lift, maps, pairing, scaffold
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.reading import Cell, cells, finding

PROMISE_LETTERS = 200  # a sentence one reads in a table

# An export cell holds definitions. Calling one of these while the module is imported would touch the world.
ACTS = frozenset(
    {
        "breakpoint", "check_output", "connect", "create_all", "create_engine", "eval", "exec", "execute", "input",
        "load_settings", "make_engine", "mkdir", "mkdtemp", "open", "print", "read_bytes", "read_csv", "read_text",
        "run", "show", "show_http", "show_sql", "sleep", "start", "system", "unlink", "urlopen", "write_bytes",
        "write_text", "Popen",
    }
)  # fmt: skip
IMPORTS = (ast.Import, ast.ImportFrom)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*IMPORTS, *FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)
UPDATE = re.compile(r"\s*(?:UPDATE\b|(?:INSERT|WITH)\b.*\bUPDATE\b).*\bSET\b", re.IGNORECASE | re.DOTALL)
RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)
# Folders of one machine. `/etc/passwd` is not here: it is what attacks in lessons ask for.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:home|Users|root|tmp|var|usr|opt|work|mnt|srv)/[\w.-]"
    r"|(?<=[\"'])[A-Z]:\\\\?[A-Za-z]"
    r"|file:///"
)


# ---------------------------------------------------------------- text


def opening(playbook: Playbook) -> list[str]:
    """The landing page has a title and a promise of one sentence; of lessons `anatomy.card` asks that, and more."""
    if playbook.track:
        return []
    first = cells(playbook)[0] if cells(playbook) else None
    if first is None or not first.markdown or not re.match(r'"""\n# \S.*\n', first.content):
        return [finding(playbook, 1, "the first cell has no title", 'begin it with `"""` and `# Title`')]
    if not re.fullmatch(r"[A-Z][^.!?]*(?:[.!?](?=\S)[^.!?]*)*\.", playbook.promise):
        to_do = "say below the title what the reader can do afterwards"
        return [finding(playbook, 4, "no promise of one sentence", to_do)]
    if len(playbook.promise) > PROMISE_LETTERS:
        return [finding(playbook, 4, f"a promise of more than {PROMISE_LETTERS} letters", "say it shorter")]
    return []


def to_do(playbook: Playbook) -> list[str]:
    """Nothing that `playbook new` left to be written. Generated cells repeat what stands elsewhere."""
    return [
        finding(playbook, number, f"unfinished: {line.strip()[:60]}", "write it")
        for cell in cells(playbook)
        if not cell.tags & {"map", "nav"}
        for number, line in enumerate(cell.content.split("\n"), cell.line)
        if re.search(r"\bTODO\b", line)
    ]


# ---------------------------------------------------------------- code


def _trees(playbook: Playbook) -> Iterator[tuple[Cell, ast.Module]]:
    """The code cells that parse, with the line numbers of the text."""
    for cell in cells(playbook):
        if not cell.markdown:
            try:
                tree = ast.parse(cell.content)
            except SyntaxError:
                continue
            yield cell, ast.increment_lineno(tree, cell.line - 1)


def code(playbook: Playbook) -> list[str]:
    """Plain Python in every code cell: no magics, no shell lines, no trailing `;`, no waiting by the clock."""
    found = []
    for cell in cells(playbook):
        if cell.markdown:
            continue
        # jupytext turns `# %time` into a magic when it makes the notebook.
        for number, line in enumerate(cell.content.split("\n"), cell.line):
            if re.match(r"\s*(?:# ?)?(?:%%?[a-z]|![a-z./])", line):
                found.append(finding(playbook, number, f"a magic or shell line: {line.strip()[:40]}", "use Python"))
        try:
            ast.parse(cell.content)
        except SyntaxError as error:
            line_number = cell.line + (error.lineno or 1) - 1
            found.append(finding(playbook, line_number, f"not Python: {error.msg}", "correct it"))
            continue
        for number in _semicolons(cell.content):
            found.append(finding(playbook, cell.line + number - 1, "a trailing `;`", "remove it"))
    for cell, tree in _trees(playbook):
        if "export" in cell.tags:
            continue  # a service may pause, a lesson may not
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _callee(node) == "sleep":
                found.append(finding(playbook, node.lineno, "a sleep", "wait for an event or a barrier"))
    return found


def _semicolons(source: str) -> Iterator[int]:
    before = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER) and before and before.string == ";":
            yield before.start[0]
        before = token


def _callee(call: ast.Call) -> str:
    """`sleep` for `time.sleep(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def exports(playbook: Playbook) -> list[str]:
    """Export cells hold definitions only: importing them must do nothing but define."""
    found = []
    for cell, tree in _trees(playbook):
        if "export" not in cell.tags:
            continue
        for node in tree.body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if not isinstance(node, DEFINITIONS) and type(node).__name__ != "TypeAlias" and not _typing_only(node):
                what = f"`{ast.unparse(node).splitlines()[0][:50]}` runs at import"
                found.append(finding(playbook, node.lineno, what, "put it into a function, or take the tag away"))
                continue
            found += [
                finding(playbook, call.lineno, f"`{_callee(call)}` is called at import", "call it in a function")
                for call in _calls_at_import(node)
                if _callee(call) in ACTS
            ]
    return found


def _typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that run while the module is imported: in decorators, defaults and class bodies, not in functions."""
    if isinstance(node, ast.Call):
        yield node
    inner: list[ast.AST]
    if isinstance(node, FUNCTIONS):
        inner = [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
    elif isinstance(node, ast.Lambda):
        inner = []
    else:
        inner = list(ast.iter_child_nodes(node))
    for child in inner:
        yield from _calls_at_import(child)


def updates(playbook: Playbook) -> list[str]:
    """SQL in an export that updates rows has a RETURNING: without it DuckDB loses updates (`foundations/engines`)."""
    return [
        finding(playbook, line, "an UPDATE without RETURNING, which loses updates on DuckDB", "add RETURNING 1")
        for cell, tree in _trees(playbook)
        if "export" in cell.tags
        for line, text in _texts(tree)
        if UPDATE.match(text) and not RETURNING.search(text)
    ]


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a program that are values, not docstrings; an f-string is one, with X where values go."""
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def machine_paths(playbook: Playbook) -> list[str]:
    """No path of one machine, neither in the text nor in the stored outputs."""
    found = []
    to_do = "find data with `data_path`, folders with `lesson_folder`"
    for number, line in enumerate(playbook.source.split("\n"), 1):
        if match := MACHINE_PATH.search(line):
            found.append(finding(playbook, number, f"a path of one machine, {match[0]!r}", to_do))
    for cell, shown in _outputs(playbook):
        if match := MACHINE_PATH.search(shown):
            where = f"notebooks/{playbook.key}.ipynb: cell {cell}"
            found.append(f"{where}: an output shows a path of one machine, {match[0]!r}; print facts, not paths")
    return found


def _outputs(playbook: Playbook) -> Iterator[tuple[str, str]]:
    """(cell's id, what is shown below it) of the stored notebook; none while there is no readable one."""
    try:
        notebook = pairing.read_notebook(playbook)
    except InputError:
        return  # `drift` says so
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            texts = [output.get("text", ""), *output.get("traceback", ()), *output.get("data", {}).values()]
            yield from ((str(cell.get("id", "?")), text) for text in texts if isinstance(text, str))


def stored_hints(playbook: Playbook) -> list[str]:
    """What the notebook shows as hints is what the exercise's module says today.

    A hint is changed in another file, so no comparison of text and notebook sees it, only a run of the whole page.
    """
    try:
        notebook, hints = pairing.read_notebook(playbook), answers.hints(playbook)
    except InputError:
        return []  # `drift` and the anatomy say so
    found = []
    for cell in notebook.cells:
        number = re.search(r"HINTS\[(\d+)\]", cell.source) if "hint" in cell.metadata.get("tags", ()) else None
        shown = "".join(output.get("text", "") for output in cell.get("outputs", ()))
        if number and shown and int(number[1]) < len(hints) and shown.strip() != hints[int(number[1])].strip():
            where = f"notebooks/{playbook.key}.ipynb: cell {cell.get('id', '?')}"
            found.append(f"{where}: shows a hint of before; run `playbook refresh {playbook.name}`")
    return found


# ---------------------------------------------------------------- the course as a whole


def order(course: Course) -> list[str]:
    """A page imports only pages before it, its exports nothing of the kit, and its links lead somewhere."""
    place = {p.module: i for i, p in enumerate(course.playbooks)}
    found: list[str] = []
    for playbook in course.playbooks:
        for cell, tree in _trees(playbook):
            for node in ast.walk(tree):
                for module in _imported(node):
                    line = getattr(node, "lineno", cell.line)
                    found += _import_finding(playbook, place, module, line, "export" in cell.tags)
        found += _needs(course, playbook)
    return found


def _imported(node: ast.AST) -> list[str]:
    """The modules an import statement names; `from playbook.auth import sessions` names `playbook.auth.sessions`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        if base.count(".") < 2 and base.startswith("playbook"):
            return [f"{base}.{alias.name}" for alias in node.names]
        return [base]
    return []


def _import_finding(
    playbook: Playbook, place: dict[str, int], module: str, line: int, in_export: bool
) -> Iterator[str]:
    if module.startswith("."):
        yield finding(
            playbook, line, f"the relative import {module!r}", "name the module in full: a script has no package"
        )
    elif module.startswith("playbook.kit"):
        if in_export:
            yield finding(playbook, line, f"an export imports {module}", "use only libraries and earlier playbooks")
    elif module == playbook.module:
        yield finding(playbook, line, "imports itself", "use the name directly")
    elif module in place and place[module] > place[playbook.module]:
        later = module.removeprefix("playbook.").replace(".", "/")
        yield finding(
            playbook, line, f"imports {later}, which comes later", "use only what stands above in course.toml"
        )


def _needs(course: Course, playbook: Playbook) -> Iterator[str]:
    earlier = {p.notebook.resolve() for p in course.playbooks[: course.playbooks.index(playbook)]}
    every = {p.notebook.resolve() for p in course.pairs}
    need = playbook.card.get("You need", "")
    line = cells(playbook)[0].at(r"^\| \*\*You need") if cells(playbook) else 1
    for link in re.findall(r"\]\(([^)#]+\.ipynb)", need):
        if (playbook.notebook.parent / link).resolve() not in earlier:
            yield finding(playbook, line, f"You need {link}, which does not come before", "link to earlier playbooks")
    if need and need != "nothing" and "](" not in need:
        yield finding(playbook, line, "You need has no link", "link to earlier playbooks, or write `nothing`")
    for cell in cells(playbook):
        if cell.markdown and "nav" not in cell.tags:
            for link in re.findall(r"\]\(([^)#:]+\.ipynb)", cell.content):
                if (playbook.notebook.parent / link).resolve() not in every:
                    line = cell.at(re.escape(link))
                    yield finding(playbook, line, f"a link to {link}, which does not exist", "correct it")


def names(course: Course) -> list[str]:
    """Names that can be imported, scripted and looked up; every page of the package is in `course.toml`."""
    found = []
    times = Counter(p.name for p in course.pairs)
    for playbook in course.playbooks:
        if hidden := scaffold.shadows(playbook.name):
            found.append(finding(playbook, 1, hidden, "rename the page: a script would import it instead"))
        if not scaffold.SNAKE_CASE.fullmatch(playbook.name):
            found.append(finding(playbook, 1, f"{playbook.name!r} is not snake_case", "rename it"))
        if times[playbook.name] > 1:
            found.append(finding(playbook, 1, f"{times[playbook.name]} playbooks are called so", "rename one"))
    order = [p.name for p in course.playbooks]
    for name in course.core_names:
        if name not in order:
            found.append(f"playbook/course.toml:1: core names {name}, which is no page; correct it")
    if [name for name in course.core_names if name in order] != [p.name for p in course.core]:
        found.append("playbook/course.toml:1: the core path is not in course order; order it")
    known = {p.text for p in course.pairs}
    for path in sorted((course.root / "playbook").rglob("*.py")):
        inside = path.relative_to(course.root / "playbook")
        if inside.parts[0] != "kit" and path not in known and re.search(r"^# %%", path.read_text("utf-8"), re.M):
            found.append(f"playbook/{inside.as_posix()}:1: is not in course.toml; add it to its track")
    return found


PAGE_RULES = (opening, to_do, code, exports, updates, machine_paths, stored_hints, *anatomy.PAGE_RULES)
COURSE_RULES = (order, names, maps.outdated, glossary.outdated, glossary.findings, lift.findings, *anatomy.COURSE_RULES)


def findings(course: Course, step: Callable[[str], None] = lambda name: None) -> list[str]:
    """Everything that breaks a rule, page by page in course order, then what concerns the course as a whole.

    `step` is called with the name of each page and of each rule of the course, before it is looked at.
    """
    found = []
    for playbook in course.pairs:
        step(playbook.key)
        found += [line for rule in PAGE_RULES for line in rule(playbook)]
    for whole in COURSE_RULES:
        step(whole.__name__)
        found += whole(course)
    return found


def drift(course: Course) -> list[str]:
    """The cells in which a stored notebook is not what its text says, with the ways to bring them together."""
    return pairing.all_differences(course)
