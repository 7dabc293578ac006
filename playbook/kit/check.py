"""The rules every page keeps, as functions that return findings: `path:line: what is wrong; what to do`.

Here are the rules of all pages, and of those that `course.toml` lists as `old_form`; those of pages with roles and a
budget are in `playbook.kit.anatomy`. `findings` runs all of them but the comparison of texts and notebooks, which is
`drift`: a notebook that was edited without its text is bad input, not a page that breaks a rule.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator

from playbook.kit import anatomy, glossary, lift, maps, pairing, scaffold
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.reading import Cell, cells, finding, in_section, line_of

# Anatomy and length of pages of the old form.
SECTIONS = (
    "The decision",
    "See it break",
    "Build it",
    "See it work",
    "On PostgreSQL",
    "Check it",
    "Your turn",
    "Hand it over",
    "Sources",
)
CARD = ("Use it when", "You need", "Time", "Topics", "Standard")
# Sections that a page leaves out, and why. The landing page has none of them: it is not a lesson.
LEFT_OUT = {
    ("settings", "On PostgreSQL"): "reads the environment, never the database",
    ("clock_and_identifiers", "On PostgreSQL"): "its values are made before they reach a database",
    ("decisions", "On PostgreSQL"): "is about texts",
    ("mail", "On PostgreSQL"): "writes to a mail server, never to the database",
    ("mail_threads", "On PostgreSQL"): "sends mails; the page before it shows what the database adds",
    ("cross_site", "On PostgreSQL"): "reads headers, never the database",
}
LINES = (50, 440)  # of a page's text before the exercise: what is read, without blank lines and cell marks
# Pages that are over, and how long they may be: each will be two, or be written anew. No page joins, no number grows
# (some did once, by the import lines that three pages in place of one cost them).
OVER: dict[str, int] = {}
EXPORT_LINES = 31  # of an export cell, blank ones not counted
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


# ---------------------------------------------------------------- anatomy


def opening(playbook: Playbook) -> list[str]:
    """Title and a promise of one sentence; for a lesson the card with its five rows."""
    if playbook.track and not playbook.old_form:
        return []
    found = []
    first = cells(playbook)[0] if cells(playbook) else None
    if first is None or not first.markdown or not re.match(r'"""\n# \S.*\n', first.content):
        return [finding(playbook, 1, "the first cell has no title", 'begin it with `"""` and `# Title`')]
    if not re.fullmatch(r"[A-Z][^.!?]*(?:[.!?](?=\S)[^.!?]*)*\.", playbook.promise):
        found.append(
            finding(playbook, 4, "no promise of one sentence", "say below the title what the reader can do afterwards")
        )
    elif len(playbook.promise) > PROMISE_LETTERS:
        found.append(finding(playbook, 4, f"a promise of more than {PROMISE_LETTERS} letters", "say it shorter"))
    if not playbook.track:
        return found
    missing = [row for row in CARD if not playbook.card.get(row)]
    if missing:
        to_do = "fill the table below the promise"
        found.append(finding(playbook, 6, f"the card lacks {', '.join(missing)}", to_do))
    elif tuple(row for row in playbook.card if row in CARD) != CARD:
        found.append(finding(playbook, 6, "the card's rows are out of order", f"order them {', '.join(CARD)}"))
    if playbook.card.get("Time") and not re.fullmatch(r"[1-9]\d* minutes", playbook.card["Time"]):
        line = first.at(r"^\| \*\*Time")
        found.append(finding(playbook, line, f"Time is {playbook.card['Time']!r}", "write it as `12 minutes`"))
    return found


def sections(playbook: Playbook) -> list[str]:
    """Every section of the anatomy, in its order, and none besides."""
    if not playbook.old_form:
        return []
    found = []
    have = playbook.sections
    for heading, times in Counter(have).items():
        if heading not in SECTIONS:
            line = line_of(playbook, heading)
            found.append(finding(playbook, line, f"unknown section {heading!r}", "use `###` below one of the anatomy"))
        elif times > 1:
            found.append(finding(playbook, line_of(playbook, heading), f"section {heading!r} twice", "join them"))
    for heading in SECTIONS:
        if heading not in have and (playbook.name, heading) not in LEFT_OUT:
            found.append(finding(playbook, 1, f"section {heading!r} is missing", f"write it: `## {heading}`"))
    known = [heading for heading in have if heading in SECTIONS]
    if known != sorted(known, key=SECTIONS.index):
        found.append(finding(playbook, 1, "the sections are out of order", f"order them {', '.join(SECTIONS)}"))
    return found


def contents(playbook: Playbook) -> list[str]:
    """What the sections of a lesson must hold: options, a question, asserts, an exercise, a checklist, sources."""
    if not playbook.old_form:
        return []
    checks = (_decision, _break, _build, _assertions, _exercise, _hand_over, _sources, _last_cell)
    return [line for check in checks for line in check(playbook)]


def _decision(playbook: Playbook) -> Iterator[str]:
    if "The decision" not in playbook.sections:
        return
    text, line = playbook.section("The decision"), line_of(playbook, "The decision")
    tables = [block for block in re.split(r"\n\s*\n", text) if re.match(r"\|.*\n\|[ :|-]+\n", block)]
    if not tables or not any(2 <= len(t.strip().splitlines()) - 2 <= 4 for t in tables):
        yield finding(playbook, line, "no table of two to four options", "set them side by side with what each costs")
    if not re.search(r"\*\*[^*]+\*\*", text):
        yield finding(playbook, line, "the choice is not marked", "set the chosen option in bold and say why")


def _break(playbook: Playbook) -> Iterator[str]:
    if "See it break" not in playbook.sections:
        return
    inside, line = in_section(playbook, "See it break"), line_of(playbook, "See it break")
    if not any(not cell.markdown for cell in inside):
        yield finding(playbook, line, "nothing is run", "let the tempting version fail in a code cell")
    before = inside[0].content.partition("## See it break")[2]
    if "?" not in before:
        yield finding(playbook, line, "no question before the failure", "ask the reader to predict what happens")


def _build(playbook: Playbook) -> Iterator[str]:
    if "Build it" not in playbook.sections:
        return
    if not any(not cell.markdown for cell in in_section(playbook, "Build it")):
        yield finding(playbook, line_of(playbook, "Build it"), "nothing is built", "let a code cell show a part")


def _assertions(playbook: Playbook) -> Iterator[str]:
    if "Check it" not in playbook.sections:
        return
    line = line_of(playbook, "Check it")
    code = "\n".join(cell.content for cell in in_section(playbook, "Check it") if not cell.markdown)
    if not re.search(r"^\s*assert\b", code, re.M):
        yield finding(playbook, line, "nothing is asserted", "assert the property that must never regress")
    if "print(" not in code:
        yield finding(playbook, line, "nothing is printed", "end with one line that says what held")


def _exercise(playbook: Playbook) -> Iterator[str]:
    for tag in ("exercise", "solution"):
        number = sum(tag in cell.tags for cell in cells(playbook))
        if number != 1:
            yield finding(playbook, 1, f"{number} cells tagged {tag}", f'tag one code cell `tags=["{tag}"]`')
    order = [tag for cell in cells(playbook) for tag in ("exercise", "solution") if tag in cell.tags]
    if order == ["solution", "exercise"]:
        yield finding(playbook, 1, "the solution stands before the exercise", "put it after the checker")
    for cell in cells(playbook):
        if "solution" in cell.tags and not re.search(r"^assert check\w*\(.*\)\s*\Z", cell.content.rstrip(), re.M):
            to_do = "end it with `assert check_...(...)`"
            yield finding(playbook, cell.line, "the solution does not prove itself", to_do)


def _hand_over(playbook: Playbook) -> Iterator[str]:
    if "Hand it over" not in playbook.sections:
        return
    items = re.findall(r"^- \*\*[^*]+\*\*: \S", playbook.section("Hand it over"), re.M)
    if not 3 <= len(items) <= 6:
        what = f"{len(items)} checklist lines"
        line = line_of(playbook, "Hand it over")
        yield finding(playbook, line, what, "write three to six, as `- **Reviewer**: what to look at`")


def _sources(playbook: Playbook) -> Iterator[str]:
    inside = [cell.content for cell in in_section(playbook, "Sources") if "nav" not in cell.tags]
    if inside and not "\n".join(inside).partition("## Sources")[2].strip('"\n '):
        yield finding(playbook, line_of(playbook, "Sources"), "no sources", "name the standards and their sections")


def _last_cell(playbook: Playbook) -> Iterator[str]:
    last = cells(playbook)[-1]
    if not (last.markdown and "nav" in last.tags):
        to_do = 'end the page with `# %% [markdown] tags=["nav"]`'
        yield finding(playbook, last.line, "the last cell is not the one with the links", to_do)


def length(playbook: Playbook) -> list[str]:
    """A page of one question, ten to twenty minutes; an export cell short enough to be read at one glance."""
    if not playbook.old_form:
        return []
    lesson = playbook.source.partition("\n## Your turn\n")[0].splitlines()
    lines = sum(bool(line.strip()) and not line.startswith("# %%") and line != '"""' for line in lesson)
    found = []
    if not LINES[0] <= lines <= OVER.get(playbook.key, LINES[1]):
        to_do = f"keep a page between {LINES[0]} and {LINES[1]}, one question each"
        found.append(finding(playbook, len(lesson), f"{lines} lines of text before the exercise", to_do))
    for cell in cells(playbook):
        written = sum(bool(line.strip()) for line in cell.content.split("\n"))
        if "export" in cell.tags and written > EXPORT_LINES:
            what = f"an export cell of {written} lines"
            found.append(finding(playbook, cell.line, what, f"cut it to {EXPORT_LINES}, with prose between"))
    return found


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
    elif in_export and playbook.old_form and (module == "playbook.pantry" or module.startswith("playbook.pantry.")):
        why = "Pantry uses the recipes, no recipe uses Pantry: hand over what the recipe needs as an argument"
        yield finding(playbook, line, f"an export imports {module}", why)
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


PAGE_RULES = (opening, sections, contents, length, to_do, code, exports, updates, machine_paths, *anatomy.PAGE_RULES)
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
