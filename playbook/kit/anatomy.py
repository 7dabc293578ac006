"""The rules of lessons: their sections, the roles of their cells, their budget. The landing page is no lesson.

Roles of code cells, by tag: `export`, the recipe; none, the story; `stage`, folded, what the story needs; `predict`,
its output folded, the answer to a question; `hint`, `exercise`, `solution`. Each rule is a function that returns
findings, as in `playbook.kit.check`.
"""

import ast
import builtins
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from playbook.kit import answers, breaks, budget, glossary, pairing, scopes
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.lift_size import lift_size
from playbook.kit.reading import Cell, cells, finding

SECTIONS = (
    "See it break",
    "The decision",
    "Build it",
    "See it work",
    "On PostgreSQL",
    "Check it",
    "Your turn",
    "Take it with you",
    "In short",
    "Sources",
)
ALWAYS = ("Check it", "Your turn", "In short", "Sources")
WITH_RECIPE = ("Build it", "Take it with you")  # of a page that exports something
CARD = ("Use it when", "You need", "Time", "Topics", "Standard")
CARD_ALWAYS = ("Use it when", "You need", "Time", "Topics")
TIME = re.compile(r"read (\d+) min, exercise (\d+) min")
EXERCISE_MINUTES = (10, 25)
ROLES = ("export", "stage", "predict", "hint", "exercise", "solution")
PROMISE_LETTERS = 200
BREAK_LINES = 25  # visible, before the failure
ASSERTS, CHANGES, OPTIONS, HAND_OVER = (3, 6), 3, (2, 5), (3, 6)
USE_LINES = 5  # of the synopsis, below the import
SHORT_WORDS = 90  # of "In short"
NEVER = frozenset({"Auth", "Held"})  # objects that carry everything
FUNCTION_LINES = 25  # an exported function has fewer
LONG_WORD = 70  # columns: a line with a URL cannot be wrapped

Rule = Callable[[Playbook], list[str]]


def for_lessons(rule: Callable[[Playbook], Iterator[str]]) -> Rule:
    """Make a rule of a generator: it finds nothing on the landing page."""

    @functools.wraps(rule)
    def findings(playbook: Playbook) -> list[str]:
        return list(rule(playbook)) if playbook.track else []

    return findings


@dataclass
class Section:
    """A section's heading ("" before the first), its line, its prose and its code cells."""

    heading: str
    line: int
    prose: str = ""
    code: list[Cell] = field(default_factory=list)


def divided(playbook: Playbook) -> list[Section]:
    """The page by its `## ` headings. A Markdown cell may end one section and begin the next."""
    found = [Section("", 1)]
    for cell in cells(playbook):
        if not cell.markdown:
            found[-1].code.append(cell)
            continue
        if cell.tags & budget.GENERATED:
            continue
        fenced = False
        for number, line in enumerate(cell.content.split("\n"), cell.line):
            fenced ^= line.startswith("```")
            heading = None if fenced else re.match(r"## (.+)$", line)
            if heading:
                found.append(Section(heading[1], number))
            elif line.strip() != '"""':
                found[-1].prose += line + "\n"
    return found


def section(playbook: Playbook, heading: str) -> Section | None:
    return next((s for s in divided(playbook) if s.heading == heading), None)


def has_recipe(playbook: Playbook) -> bool:
    return any("export" in cell.tags for cell in cells(playbook))


# ---------------------------------------------------------------- what stands where


@for_lessons
def card(playbook: Playbook) -> Iterator[str]:
    """Title, promise, the card's rows in their order, and the time as it is written."""
    first = cells(playbook)[0] if cells(playbook) else None
    if first is None or not first.markdown or not re.match(r'"""\n# \S.*\n', first.content):
        yield finding(playbook, 1, "the first cell has no title", 'begin it with `"""` and `# Title`')
        return
    if not re.fullmatch(r"[A-Z].*\.", playbook.promise):
        yield finding(playbook, 4, "no promise below the title", "say in a sentence or two what the reader can do then")
    elif len(playbook.promise) > PROMISE_LETTERS:
        yield finding(playbook, 4, f"a promise of more than {PROMISE_LETTERS} letters", "say it shorter")
    rows = [row for row in playbook.card if row in CARD]
    missing = [row for row in CARD_ALWAYS if not playbook.card.get(row)]
    if missing:
        yield finding(playbook, 6, f"the card lacks {', '.join(missing)}", "fill the table below the promise")
    elif rows != [row for row in CARD if row in rows]:
        yield finding(playbook, 6, "the card's rows are out of order", f"order them {', '.join(CARD)}")
    time = playbook.card.get("Time", "")
    line = first.at(r"^\| \*\*Time")
    match = TIME.fullmatch(time)
    least, most = EXERCISE_MINUTES
    if time and not match:
        yield finding(playbook, line, f"Time is {time!r}", "write it as `read 33 min, exercise 15 min`")
    elif match and not least <= int(match[2]) <= most:
        yield finding(playbook, line, f"an exercise of {match[2]} min", f"make it one of {least} to {most}")


@for_lessons
def order_of_sections(playbook: Playbook) -> Iterator[str]:
    """The sections in their order, none besides, none twice; those that a page may not leave out are there."""
    have = [s for s in divided(playbook) if s.heading]
    for heading, times in Counter(s.heading for s in have).items():
        line = next(s.line for s in have if s.heading == heading)
        if heading not in SECTIONS:
            yield finding(playbook, line, f"unknown section {heading!r}", "use `###` below one of the anatomy")
        elif times > 1:
            yield finding(playbook, line, f"section {heading!r} twice", "join them")
    names = [s.heading for s in have if s.heading in SECTIONS]
    for heading in (*ALWAYS, *(WITH_RECIPE if has_recipe(playbook) else ())):
        if heading not in names:
            yield finding(playbook, 1, f"section {heading!r} is missing", f"write it: `## {heading}`")
    if names != sorted(names, key=SECTIONS.index):
        yield finding(playbook, 1, "the sections are out of order", f"order them {', '.join(SECTIONS)}")
    last = cells(playbook)[-1]
    if not (last.markdown and "nav" in last.tags):
        to_do = 'end the page with `# %% [markdown] tags=["nav"]`'
        yield finding(playbook, last.line, "the last cell is not the one with the links", to_do)


@for_lessons
def roles(playbook: Playbook) -> Iterator[str]:
    """Each code cell has one role at most; folding is not written by hand."""
    for cell in cells(playbook):
        if not cell.markdown:
            mine = [role for role in ROLES if role in cell.tags]
            if len(mine) > 1:
                what = f"a cell with the roles {' and '.join(mine)}"
                yield finding(playbook, cell.line - 1, what, "make two cells of it, or leave one tag")
        elif strange := cell.tags & set(ROLES):
            what = f"a Markdown cell tagged {', '.join(sorted(strange))}"
            yield finding(playbook, cell.line - 1, what, "take the tag away: roles are for code")
    for tag, times in (("exercise", 1), ("solution", 1), ("hint", answers.HINTS)):
        number = sum(tag in cell.tags for cell in cells(playbook))
        if number != times:
            noun = "cell" if times == 1 else "cells"
            what = f"{number} cells tagged {tag}"
            yield finding(playbook, 1, what, f'tag {times} {noun} `# %% tags=["{tag}"]`')
    order = [role for cell in cells(playbook) for role in ("exercise", "hint", "solution") if role in cell.tags]
    if order != sorted(order, key=("exercise", "hint", "solution").index):
        yield finding(playbook, 1, "exercise, hints and solution are out of order", "put them in this order")


def folded_by_hand(playbook: Playbook) -> list[str]:
    """No text says how a cell is folded: that follows from its role. This holds for every page."""
    found = []
    for cell in cells(playbook):
        by_hand = sorted(pairing.BOOK_TAGS & cell.tags)
        if re.search(r"\bjupyter\s*=", cell.options):
            by_hand.append("jupyter=")
        if by_hand:
            what = f"folded by hand, {', '.join(by_hand)}"
            to_do = "leave the role alone (`stage`, `predict`, `hint`, `solution`): the tools fold the cell"
            found.append(finding(playbook, cell.line - 1, what, to_do))
    return found


@for_lessons
def parts(playbook: Playbook) -> Iterator[str]:
    """What the sections must hold."""
    for check in (_see_it_break, _decision, _predictions, _check_it, _take_it_with_you, _in_short, _sources):
        yield from check(playbook)


def _see_it_break(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "See it break")
    if inside is None:
        return
    if not inside.code:
        yield finding(playbook, inside.line, "nothing is run", "let the tempting version fail in a code cell")
    if not _asks(inside.prose):
        yield finding(playbook, inside.line, "no question before the failure", "ask the reader to predict what happens")
    lines = sum(budget.code_lines(cell.content) for cell in inside.code if not cell.tags & budget.FOLDED)
    if lines > BREAK_LINES:
        what = f"{lines} visible lines of code in See it break"
        yield finding(playbook, inside.line, what, f"keep it to {BREAK_LINES}: fold what is not the failure")


def _decision(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "The decision")
    if inside is None:
        return
    tables = [block for block in re.split(r"\n\s*\n", inside.prose.strip()) if re.match(r"\|.*\n\|[ :|-]+\n", block)]
    least, most = OPTIONS
    if not any(least <= len(block.strip().splitlines()) - 2 <= most for block in tables):
        what = f"no table of {least} to {most} options"
        yield finding(playbook, inside.line, what, "set them side by side with what each costs")
    if not re.search(r"\*\*[^*]+\*\*", inside.prose):
        yield finding(playbook, inside.line, "the choice is not marked", "set the chosen option in bold and say why")


def _asks(prose: str) -> bool:
    """Whether a question stands in it; `?page=2` is none."""
    return re.search(r"\?(?=\W|$)", re.sub(r"`[^`]*`", "", prose)) is not None


def _predictions(playbook: Playbook) -> Iterator[str]:
    before = ""
    for cell in cells(playbook):
        if cell.markdown:
            before = _last_paragraph(cell)
        elif "predict" in cell.tags and not _asks(before):
            yield finding(playbook, cell.line - 1, "a prediction without a question", "ask for it in the cell above")


def _check_it(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "Check it")
    if inside is None:
        return
    found = [(cell, node) for cell in inside.code for node in ast.walk(_tree(cell)) if isinstance(node, ast.Assert)]
    least, most = ASSERTS
    if not least <= len(found) <= most:
        what = f"{len(found)} assertions in Check it"
        yield finding(playbook, inside.line, what, f"write {least} to {most}, each of a promise of the page")
    for cell, node in found:
        if node.msg is None:
            line = cell.line + node.lineno - 1
            yield finding(playbook, line, "an assertion without words", 'write `assert ..., "what is wrong then"`')


def _take_it_with_you(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "Take it with you")
    if inside is None:
        return
    if f"playbook lift {playbook.name}" not in inside.prose:
        to_do = f"say what `playbook lift {playbook.name}` copies, and what it asks of the reader's project"
        yield finding(playbook, inside.line, "Take it with you does not say how to lift the recipe", to_do)
    items = re.findall(r"^- \*\*[^*]+\*\*: \S", inside.prose, re.MULTILINE)
    least, most = HAND_OVER
    if not least <= len(items) <= most:
        what = f"{len(items)} lines to hand over"
        yield finding(playbook, inside.line, what, f"write {least} to {most}, as `- **Reviewer**: what to look at`")


def _in_short(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "In short")
    if inside is None:
        return
    words = budget.prose_words(inside.prose)
    if not 0 < words <= SHORT_WORDS:
        to_do = f"say in three sentences, {SHORT_WORDS} words, what one can explain now"
        yield finding(playbook, inside.line, f"In short has {words} words", to_do)


def _sources(playbook: Playbook) -> Iterator[str]:
    inside = section(playbook, "Sources")
    if inside is not None and not inside.prose.strip():
        yield finding(playbook, inside.line, "no sources", "name the standards and their sections")


# ---------------------------------------------------------------- synopsis


@for_lessons
def synopsis(playbook: Playbook) -> Iterator[str]:
    """Below the card: the import line, up to five lines of use, and what is lifted."""
    if not has_recipe(playbook):
        return
    opening = divided(playbook)[0].prose
    line = cells(playbook)[0].at(r"^```python")
    block = re.search(r"^```python\n(.*?)^```", opening, re.MULTILINE | re.DOTALL)
    if block is None:
        to_do = f"below the card show how the recipe is used: `from {playbook.module} import ...` and {USE_LINES} lines"
        yield finding(playbook, line, "no synopsis", to_do)
        return
    try:
        body = ast.parse(block[1]).body
    except SyntaxError as error:
        yield finding(playbook, line + (error.lineno or 1), f"the synopsis is not Python: {error.msg}", "correct it")
        return
    own = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == playbook.module]
    if not own:
        to_do = f"begin with `from {playbook.module} import ...`"
        yield finding(playbook, line, "the synopsis does not import the recipe", to_do)
    for name in sorted({alias.name for node in own for alias in node.names} - exported_names(playbook)):
        yield finding(playbook, line, f"the synopsis imports {name}, which is no export", "name what the page exports")
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    used = budget.code_lines(block[1]) - sum((node.end_lineno or 0) - node.lineno + 1 for node in imports)
    if not 1 <= used <= USE_LINES:
        yield finding(playbook, line, f"{used} lines of use in the synopsis", f"show one to {USE_LINES}")
    if not re.search(r"^\*Lift: \d+ lines in \d+ files?; needs [^*]+\.\*$", opening, re.MULTILINE):
        to_do = "write below the synopsis `*Lift: 53 lines in 1 file; needs sqlalchemy.*`"
        yield finding(playbook, line, "the synopsis does not say what is lifted", to_do)


def lifted(course: Course) -> list[str]:
    """The synopsis says as much as `playbook lift` copies, as soon as that can be computed."""
    found = []
    for playbook in course.playbooks:
        if not has_recipe(playbook):
            continue
        size = lift_size(course, playbook)
        opening = divided(playbook)[0].prose
        said = re.search(r"^\*Lift: .*$", opening, re.MULTILINE)
        if size is not None and said is not None and said[0] != size.sentence():
            line = cells(playbook)[0].at(r"^\*Lift: ")
            found.append(finding(playbook, line, f"the synopsis says {said[0]!r}", f"write `{size.sentence()}`"))
    return found


# ---------------------------------------------------------------- budget


@for_lessons
def within_budget(playbook: Playbook) -> Iterator[str]:
    """The numbers of the text are within the budget, and the card says the minutes that are computed."""
    lines = sum(budget.code_lines(cell.content) for cell in cells(playbook) if "stage" in cell.tags)
    if lines > budget.STAGE_LINES:
        at = next(cell.line for cell in cells(playbook) if "stage" in cell.tags)
        what = f"{lines} lines in stage cells"
        yield finding(playbook, at, what, f"keep them to {budget.STAGE_LINES}: what two pages need is in the kit")
    try:
        measured = budget.measure(pairing.with_stored_outputs(playbook).cells)
    except InputError:
        return  # `drift` says so
    for name in measured.over():
        number = getattr(measured, name)
        limit = f"at most {budget.AT_MOST[name]}" if name in budget.AT_MOST else f"at least {budget.AT_LEAST[name]}"
        index = {"longest": measured.longest_at, "gap": measured.gap_at}.get(name)
        line = cells(playbook)[index].line if index is not None and index < len(cells(playbook)) else 1
        yield finding(playbook, line, f"{WHAT[name].format(number)} ({limit})", budget.CURE[name])
    time = TIME.fullmatch(playbook.card.get("Time", ""))
    if time and int(time[1]) != measured.minutes:
        line = cells(playbook)[0].at(r"^\| \*\*Time")
        to_do = f"write `read {measured.minutes} min, exercise {time[2]} min`"
        yield finding(playbook, line, f"the card says {time[1]} min, computed are {measured.minutes}", to_do)


WHAT = {
    "words": "{} words",
    "lines": "{} visible lines of code",
    "tokens": "{} tokens of visible code",
    "longest": "a visible cell of {} lines",
    "gap": "{} visible lines without an output between them",
    "shown": "{} % of the visible cells show something",
    "minutes": "{} minutes to read",
}


@for_lessons
def width(playbook: Playbook) -> Iterator[str]:
    """Lines of at most 88 columns, prose and tables too. Generated cells are as wide as they are.

    A row of a table cannot be wrapped, so the target of a link to the glossary does not count there.
    """
    generated = {
        number
        for cell in cells(playbook)
        if cell.tags & budget.GENERATED
        for number in range(cell.line, cell.line + cell.content.count("\n") + 1)
    }
    for number, line in enumerate(playbook.source.split("\n"), 1):
        if line.startswith("|"):
            line = glossary.TARGET.sub("]", line)
        if len(line) <= budget.COLUMNS or number in generated or max(map(len, line.split())) > LONG_WORD:
            continue
        yield finding(playbook, number, f"E501: a line of {len(line)} columns", f"wrap it at {budget.COLUMNS}")


# ---------------------------------------------------------------- names


def _tree(cell: Cell) -> ast.Module:
    try:
        return ast.parse(cell.content)
    except SyntaxError:
        return ast.Module([], [])  # `code` says so


def _parses(cell: Cell) -> bool:
    try:
        ast.parse(cell.content)
    except SyntaxError:
        return False
    return True


@for_lessons
def introduced(playbook: Playbook) -> Iterator[str]:
    """What visible cells use from a folded cell is named in the sentence before the folded cell."""
    sentence, owner = "", dict[str, Cell]()  # owner: the stage cell that a name comes from
    said: dict[Cell, str] = {}
    visible: set[str] = set()
    told: set[tuple[Cell, str]] = set()
    for cell in cells(playbook):
        if cell.markdown:
            sentence = _last_paragraph(cell)
        elif not _parses(cell) or "solution" in cell.tags:
            continue
        elif "stage" in cell.tags:
            said[cell] = sentence
            if not sentence:
                to_do = "say in the sentence before it what the folded cell gives"
                yield finding(playbook, cell.line - 1, "a folded cell without a sentence", to_do)
            owner |= dict.fromkeys(scopes.binds(cell.content) - visible, cell)
        else:
            for name, line in sorted(scopes.needs(cell.content).items(), key=lambda item: item[1]):
                stage = owner.get(name)
                if stage is None or (stage, name) in told or re.search(rf"\b{re.escape(name)}\b", said[stage]):
                    continue
                told.add((stage, name))
                what = f"line {cell.line + line - 1} uses {name}, which the sentence before this folded cell leaves out"
                to_do = f"name `{name}` there, or bind it in a visible cell"
                yield finding(playbook, stage.line - 1, what, to_do)
            bound = scopes.binds(cell.content)
            visible |= bound
            for name in bound:
                owner.pop(name, None)


def _last_paragraph(cell: Cell) -> str:
    """The last paragraph of prose; with a list or table, the paragraph that announces it too."""
    blocks = [b for b in re.split(r"\n\s*\n", cell.content.strip().strip('"').strip()) if b.strip()]
    if len(blocks) > 1 and re.match(r"\s*(?:[-*|]|\d+\.)", blocks[-1]):
        return "\n".join(blocks[-2:])
    last = blocks[-1] if blocks else ""
    return "" if last.startswith("#") else last


def exported_names(playbook: Playbook) -> set[str]:
    """The names that the export cells bind."""
    recipe = [cell for cell in cells(playbook) if "export" in cell.tags and _parses(cell)]
    return {name for cell in recipe for name in scopes.binds(cell.content)}


@for_lessons
def functions(playbook: Playbook) -> Iterator[str]:
    """An exported function has fewer than 25 lines; it and an exported class say what they do, unless private."""
    for cell in cells(playbook):
        if "export" not in cell.tags or not _parses(cell):
            continue
        tree = _tree(cell)
        for node in ast.walk(tree):
            if not isinstance(node, (*scopes.FUNCTIONS, ast.ClassDef)):
                continue
            line = cell.line + node.lineno - 1
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if isinstance(node, scopes.FUNCTIONS) and size >= FUNCTION_LINES:
                yield finding(playbook, line, f"{node.name} has {size} lines", "name a part of it, and call that")
            if node in tree.body and not node.name.startswith("_") and ast.get_docstring(node) is None:
                to_do = "say what it does: units, errors raised, the source"
                yield finding(playbook, line, f"{node.name} is exported without a docstring", to_do)


def recipes(course: Course) -> list[str]:
    """An export cell refers only to libraries and, by symbol, to exports of earlier pages."""
    pages = {p.module: p for p in course.playbooks}
    found: list[str] = []
    for playbook in course.playbooks:
        for cell in cells(playbook):
            if "export" in cell.tags and _parses(cell):
                found += _refers(playbook, pages, cell)
        found += _unbound(playbook)
    return found


def _refers(playbook: Playbook, pages: dict[str, Playbook], cell: Cell) -> Iterator[str]:
    for node in ast.walk(_tree(cell)):
        line = cell.line + getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "playbook":
                    to_do = f"write `from {alias.name} import NAME`, and only what an earlier page exports"
                    yield finding(playbook, line, f"an export imports {alias.name} as a whole", to_do)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "playbook":
            yield from _from(playbook, pages, node, line)
        elif isinstance(node, ast.Attribute) and node.attr == "state" and ast.unparse(node.value).endswith("app"):
            to_do = "make what it needs an argument: a session, a clock, a lifetime, a key"
            yield finding(playbook, line, f"an export uses {ast.unparse(node)}", to_do)


def _from(playbook: Playbook, pages: dict[str, Playbook], node: ast.ImportFrom, line: int) -> Iterator[str]:
    module = node.module or ""
    if module == "playbook.kit" or module.startswith("playbook.kit."):
        return  # `order` says so
    for alias in node.names:
        whole = f"{module}.{alias.name}"
        if whole in pages:
            to_do = f"write `from {whole} import NAME`: lifted, a symbol is copied and not a page"
            yield finding(playbook, line, f"an export imports {whole} as a whole", to_do)
        elif module not in pages:
            to_do = "a recipe refers only to libraries and exports of earlier pages: make what it needs an argument"
            yield finding(playbook, line, f"an export imports {whole}", to_do)
        elif alias.name not in exported_names(pages[module]):
            to_do = f"export it in playbook/{pages[module].key}.py, or leave it out"
            yield finding(playbook, line, f"an export imports {whole}, which is no export", to_do)
        elif alias.name in NEVER:
            to_do = "make each thing that it needs an argument"
            yield finding(playbook, line, f"an export imports {alias.name}, which carries everything", to_do)


def _unbound(playbook: Playbook) -> Iterator[str]:
    """Names that an export takes from cells which importing the page does not run."""
    known = exported_names(playbook) | set(dir(builtins)) | {"__file__", "__name__", "__doc__"}
    for cell in cells(playbook):
        if "export" not in cell.tags or not _parses(cell):
            continue
        for name, line in scopes.needs(cell.content).items():
            if name not in known:
                what = f"an export uses {name}, which no export cell binds"
                yield finding(playbook, cell.line + line - 1, what, "import or define it in an export cell")


# ---------------------------------------------------------------- exercise and table


@for_lessons
def exercise(playbook: Playbook) -> Iterator[str]:
    """The checker is outside of the page, with hints and wrong answers; the page calls it, and the solution passes."""
    where = f"playbook/exercises/{playbook.key}.py"
    for line, what, to_do in answers.faults(playbook):
        yield f"{where}:{line}: {what}; {to_do}"
    module = f"playbook.exercises.{playbook.key.replace('/', '.')}"
    code = [cell for cell in cells(playbook) if not cell.markdown]
    if not any(re.search(rf"^from {re.escape(module)} import\b", cell.content, re.MULTILINE) for cell in code):
        to_do = f"write `from {module} import HINTS, check` below the stub"
        yield finding(playbook, 1, "the page does not import its checker", to_do)
    for cell in code:
        if "solution" in cell.tags and not re.search(r"^assert check\(.*\)\s*\Z", cell.content.rstrip(), re.MULTILINE):
            to_do = "end it with `assert check(...)`"
            yield finding(playbook, cell.line, "the solution does not prove itself", to_do)


@for_lessons
def break_it(playbook: Playbook) -> Iterator[str]:
    """Three changes to the recipe, as text that stands there once, each with the words of an assertion."""
    if not has_recipe(playbook):
        return
    line, _ = breaks.table(playbook)
    rows = breaks.changes(playbook)
    if len(rows) != CHANGES:
        to_do = f"write {CHANGES} rows below Check it: | `old text` | `new text` | words of the assertion |"
        yield finding(playbook, line or 1, f"{len(rows)} changes in the table Break it", to_do)
    said = list(breaks.messages(playbook))
    for row in rows:
        times = breaks.occurrences(playbook, row.old)
        if times != 1:
            what = f"{row.old!r} stands {times} times in the export cells"
            yield finding(playbook, row.line, what, "quote text that stands there once")
        elif row.old == row.new:
            yield finding(
                playbook, row.line, f"{row.old!r} is not changed", "write another text into the second column"
            )
        if not any(pattern.fullmatch(row.words) for pattern in said):
            to_do = "write the words of the assertion as they are"
            yield finding(playbook, row.line, f"no assertion says {row.words!r}", to_do)


def strays(course: Course) -> list[str]:
    """Every module of an exercise belongs to a page, every folder of them is a package."""
    folder = course.root / "playbook" / "exercises"
    known = {answers.place(p) for p in course.playbooks}
    found = []
    for path in sorted(folder.rglob("*.py")):
        if path.name != "__init__.py" and path not in known:
            where = path.relative_to(course.root).as_posix()
            found.append(f"{where}:1: belongs to no page of course.toml; name it after its page, or delete it")
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir() and p.name != "__pycache__")]
    for path in sorted(folders if folder.is_dir() else ()):
        if not (path / "__init__.py").is_file():
            where = (path / "__init__.py").relative_to(course.root).as_posix()
            found.append(f"{where}:1: does not exist; write it with a docstring of one line")
    return found


PAGE_RULES: tuple[Rule, ...] = (
    card, order_of_sections, roles, folded_by_hand, parts, synopsis, within_budget, width, introduced, functions,
    exercise, break_it,
)  # fmt: skip
COURSE_RULES = (recipes, lifted, strays)
