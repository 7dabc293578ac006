"""The command line: `playbook`.

Only Typer is imported here; each command imports what it needs, so that `playbook --help` answers at once. Wrong input
is one line on stderr and exit code 2, work that failed is exit code 1, Ctrl-C is 130, SIGTERM 143.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from playbook.kit import surroundings
from playbook.kit.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from playbook.kit.course import Course, Playbook
    from playbook.kit.pairing import CellFailure
    from playbook.kit.running import Result

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
PIPE_WIDTH = 200  # columns of a table that goes into a file or another program

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A backend course that runs. Begin with `playbook lab`; look something up with `playbook find WORDS`.",
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Playbooks; all when none is named.")]
Context = typer.Context


@app.callback(invoke_without_command=True)
def choose(
    context: Context,
    course: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The course's repository, if not the one this was installed from."),
    ] = None,
) -> None:
    """Remember which course is meant; show the help when no command is given."""
    context.obj = course
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _course(context: Context) -> "Course":
    from playbook.kit.course import Course
    from playbook.kit.data import ROOT

    return Course(context.obj.resolve() if context.obj else ROOT)


def _texts(playbooks: "Sequence[Playbook]") -> None:
    """Read all texts: one that is missing is said before anything is printed, run or written."""
    for playbook in playbooks:
        _ = playbook.source


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)


def _say(console: "Console", text: str = "", style: str = "") -> None:
    """One line stays one line, however narrow the terminal."""
    console.print(text, style=style or None, soft_wrap=True)


# ---------------------------------------------------------------- look


@app.command("list")
def list_(context: Context) -> None:
    """Show all playbooks by track: name, title, minutes, and what you can do afterwards."""
    from rich import box
    from rich.table import Table

    from playbook.kit.maps import duration

    course, console = _course(context), _console()
    _texts(course.playbooks)
    width = max((len(p.name) for p in course.playbooks), default=0)
    for track in course.tracks:
        minutes = duration(sum(p.minutes for p in track.playbooks))
        _say(console, f"\n{track.name}: {track.title} ({minutes})", "bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("name", min_width=width, no_wrap=True, style="cyan")
        table.add_column("title", min_width=min(16, width))
        table.add_column("min", justify="right")
        table.add_column("afterwards you can")
        for p in track.playbooks:
            table.add_row(p.name, p.title, str(p.minutes), p.promise)
        console.print(table)


@app.command()
def find(
    context: Context,
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS...", help="A topic, a question, a symptom, the name of an error.")
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 5,
) -> None:
    """Find the playbook for a topic or a question: `playbook find lost update`."""
    from playbook.kit import glossary, lookup

    console, query = _console(), " ".join(words)
    named = glossary.named(_course(context), query)
    for term in named:
        _say(console, f"{term.term}: {term.sentence} (glossary)")
    answer = lookup.find(_course(context), query)
    if named and not answer.found:
        return  # the glossary has answered
    if not answer.found:
        advice = "(try one word of the subject, or `playbook list`, which shows all pages)"
        typer.echo(f"nothing found: {answer.hint} {advice}", err=True)
        raise typer.Exit(FAILED)
    if answer.not_yet:
        nearest = ", ".join(hit.playbook.name for hit in answer.found if hit.nearest)
        _say(console, f"no page yet: {answer.not_yet}; nearest: {nearest}", "yellow")
    if answer.hint:
        _say(console, f"{answer.hint}; these come nearest", "yellow")
    for number, hit in enumerate(answer.found[:limit], 1):
        p = hit.playbook
        _say(console, f"{number}. {p.title} ({p.key}, {p.minutes} minutes)", "bold")
        _say(console, f"   {p.promise}")
        section = f'begin at "{hit.section}"; ' if hit.section else ""
        if hit.where:
            _say(console, f"   {section}found by {', '.join(hit.where)}")
        _say(console, f"   open: playbook lab {p.name}   ({p.notebook.relative_to(p.root).as_posix()})", "cyan")
    if len(answer.found) > limit:
        _say(console, f"{len(answer.found) - limit} more: `--limit {len(answer.found)}` shows them")


# ---------------------------------------------------------------- run


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print failures and the last line only.")]


@contextmanager
def _told(what: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, and `what()` says in one line what was done and what was not."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print("interrupted:", what(), file=sys.stderr)
        raise


def _named(keys: Sequence[str]) -> str:
    """The first names of many: `a, b, c and 4 more`."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


@app.command()
def run(
    context: Context,
    names: Names = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="How many at a time; as many as there are cores.")] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Run on this database instead of a fresh embedded one.")
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Run on PostgreSQL: DATABASE_URL's server, or else the packaged one.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what a failing playbook printed.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run playbooks as scripts, each on a fresh embedded database, several at a time."""
    import time
    from contextlib import ExitStack

    from playbook.kit import data, ready, running
    from playbook.kit.postgres import reach, server
    from playbook.kit.status_line import Progress

    course, console = _course(context), _console()
    chosen = [course.get(name) for name in names] if names else list(course.playbooks)
    chosen = list(dict.fromkeys(chosen))
    data.check_all(course.root / "data")
    _texts(chosen)
    given = os.environ.get("DATABASE_URL", "").strip()
    if database and postgres:
        raise InputError("--database and --postgres exclude each other: give one of them")
    if given and not database:
        ready.database_url(given)
        if not postgres:
            typer.echo("DATABASE_URL is not used: `--postgres` or `--database URL` runs on another database", err=True)
    started = time.perf_counter()
    with ExitStack() as stack:
        if database:
            database = ready.database_url(database, "--database")
            (reach if database.startswith("postgresql") else ready.reach)(database)
        elif postgres:
            database = stack.enter_context(server())
        left = [p.key for p in chosen]
        stack.enter_context(_told(lambda: f"{len(chosen) - len(left)} of {len(chosen)} ran; not: {_named(left)}"))
        progress = stack.enter_context(Progress(len(chosen), quiet))
        width = max(len(p.key) for p in chosen)

        def report(result: "Result") -> None:
            left.remove(result.playbook.key)
            progress.end(result.playbook.key)
            if not (quiet and result.passed):
                with progress.above():
                    _show_result(console, result, width, verbose)

        results = running.run_many(chosen, jobs or running.cores(), database, report, progress.begin)
    failed = sum(not result.passed for result in results)
    seconds = time.perf_counter() - started
    noun = "playbook" if len(results) == 1 else "playbooks"
    _say(console, f"{len(results)} {noun}: {len(results) - failed} passed, {failed} failed, {seconds:.1f} s", "bold")
    if failed:
        raise typer.Exit(FAILED)
    if not names:
        _say(console, "open the course: playbook lab", "cyan")


def _show_result(console: "Console", result: "Result", width: int, verbose: bool) -> None:
    from playbook.kit.running import error_line

    verdict, style = ("ok  ", "green") if result.passed else ("FAIL", "bold red")
    _say(console, f"{verdict}  {result.playbook.key:<{width}}  {result.seconds:6.1f} s", style)
    if result.passed:
        return
    failure = result.failure
    if failure is None:
        how = f"signal {-result.code}" if result.code < 0 else f"exit code {result.code}"
        _say(console, f"      ended with {how}: {error_line(result.errors)}")
    else:
        _say(
            console, f"      {_place(result.playbook, failure.number, failure.cell, failure.line, failure.first_line)}"
        )
        _say(console, f"      {failure.error}")
    if verbose:
        for line in (result.output + result.errors).splitlines():
            _say(console, f"      | {line}")


def _place(playbook: "Playbook", number: int, cell: str, line: int, first_line: str) -> str:
    return f"cell {number} ({cell}), playbook/{playbook.key}.py:{line}: {first_line}"


# ---------------------------------------------------------------- work through


@app.command()
def hint(context: Context, name: Annotated[str, typer.Argument(metavar="NAME", help="The playbook.")]) -> None:
    """Print the next hint for a playbook's exercise, and remember that you have seen it."""
    from playbook.kit import workbook

    _say(_console(), workbook.next_hint(_course(context), name, lambda line: typer.echo(line, err=True)))


@app.command()
def solution(context: Context, name: Annotated[str, typer.Argument(metavar="NAME", help="The playbook.")]) -> None:
    """Print a solution of a playbook's exercise."""
    from playbook.kit import answers

    print(answers.solution(_course(context).get(name)))


@app.command()
def progress(context: Context) -> None:
    """Show the playbooks in course order: done, next, open; the core path; the hours that are left."""
    from rich import box
    from rich.table import Table

    from playbook.kit import overview, workbook
    from playbook.kit.progress import read

    course, console = _course(context), _console()
    _texts(course.playbooks)
    try:
        found = read(workbook.folder(course))
    except OSError as error:
        raise InputError(f"workbook/progress.jsonl cannot be read: {error.strerror}") from None
    seen = overview.overview(course, found)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("", "name", "core", "min", "what the checker said last"):
        shown.add_column(heading, justify="right" if heading == "min" else "left", no_wrap=heading == "name")
    for page in course.playbooks:
        status, core = seen.status(page), "core" if page in course.core else ""
        style = {overview.DONE: "green", overview.NEXT: "bold"}.get(status, "")
        shown.add_row(status, page.name, core, str(page.minutes), found.verdicts.get(page.key, ""), style=style)
    console.print(shown)
    for name, pages in (("core path", course.core), ("all pages", course.playbooks)):
        done, left = seen.count(pages)
        _say(console, f"{name}: {done} done, {left} left", "bold")
    if seen.next:
        _say(console, f"next: playbook lab {seen.next.name}", "cyan")
    lines = [f"line {n} of workbook/progress.jsonl cannot be read, and is left out" for n in found.unreadable]
    for line in [*lines, *workbook.notices(course)]:
        _say(console, line, "yellow")


# ---------------------------------------------------------------- take along


@app.command()
def lift(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The playbook whose recipe is lifted.")],
    into: Annotated[Path, typer.Argument(metavar="INTO", help="A folder of your project; it becomes a package.")],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="SYMBOL", help="This symbol and what it needs. Repeatable, or A,B,C."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written, write nothing.")] = False,
) -> None:
    """Write a playbook's recipe as plain modules, with its tests, into a project of your own.

    No file is overwritten. Afterwards `playbook lifted INTO` says what has changed there and here.
    """
    from playbook.kit import lift as lifting

    names = [symbol for given in only or () for symbol in given.replace(",", " ").split()]
    if only and not names:
        raise InputError("--only needs a symbol: `--only link`")
    found, _ = lifting.plan(_course(context), name, into, names)
    if not dry_run:
        lifting.write(found.into, found.new, found.replaced)
    console = _console()
    for place in found.written:
        _say(console, f"{'would write' if dry_run else 'wrote'}  {into / place}", "green")
    for place, reason in found.left.items():
        _say(console, f"left   {into / place}: {reason}")
    for note in found.notes:
        _say(console, note, "yellow")
    if dry_run:
        for place, text in found.written.items():
            if place != lifting.LOCK and text:
                _say(console, f"\n{into / place}", "bold")
                _say(console, text.rstrip("\n"))
        _say(console)
    recipe = found.recipe
    modules = "module" if recipe.modules == 1 else "modules"
    _say(console, f"{recipe.lines} lines in {recipe.modules} {modules}", "bold")
    if recipe.over:
        why = f": {recipe.about.over}" if recipe.about.over else "; `--only SYMBOL` takes less"
        _say(console, f"long for a recipe ({recipe.over}){why}", "yellow")
    if found.needs:
        _say(console, "add to `dependencies` in your pyproject.toml:")
        _say(console, _quoted(found.needs))
    if found.test_needs:
        _say(console, "and for its tests:")
        _say(console, _quoted(found.test_needs))
    if not dry_run:
        if any(Path(place).name.startswith("test_") for place in found.written):  # `--only` may leave them behind
            _say(console, f"its tests: python -m pytest {into}", "cyan")
        _say(console, f"later: playbook lifted {into}", "cyan")


def _quoted(names: Sequence[str]) -> str:
    return "  " + ", ".join(f'"{name}"' for name in names)


@app.command()
def lifted(
    context: Context,
    into: Annotated[Path, typer.Argument(metavar="INTO", help="The folder that was lifted into.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Take over what changed in the course, with marks where both changed.")
    ] = False,
) -> None:
    """Compare what was lifted with the course, symbol by symbol; exit code 1 when a security recipe changed here."""
    from playbook.kit import lift as lifting

    found, console = lifting.compare(_course(context), into), _console()
    width = max((len(change.symbol) for change in found.changes), default=0)
    for place in dict.fromkeys(change.place for change in found.changes):
        _say(console, place, "bold")
        for change in (change for change in found.changes if change.place == place):
            style = "" if change.state == lifting.SAME else "yellow"
            _say(console, f"  {change.symbol:<{width}}  {change.explained}", style)
            for line in change.differences:
                _say(console, f"      {line}".rstrip())
    for problem in found.problems:
        _say(console, problem, "yellow")
    conflicts: list[str] = []
    if merge:
        written, conflicts = lifting.merge(found)
        for place in written:
            marks = place in conflicts
            _say(console, f"{'CONFLICT' if marks else 'merged'}  {into / place}", "bold red" if marks else "green")
        if not written:
            _say(console, "nothing to merge")
        if conflicts:
            typer.echo(f"settle the conflicts in {', '.join(conflicts)}, then run the tests", err=True)
    elif any(change.in_course for change in found.changes):
        _say(console, f"take the course's changes over: playbook lifted {into} --merge", "cyan")
    if found.security and not merge:
        typer.echo(f"changed in the course, and security depends on it: {', '.join(found.security)}", err=True)
    if conflicts or (found.security and not merge):
        raise typer.Exit(FAILED)


# ---------------------------------------------------------------- keep


@app.command()
def refresh(
    context: Context,
    names: Names = None,
    from_notebook: Annotated[
        bool, typer.Option("--from-notebook", help="First write the notebooks' cells into the texts.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="How many at a time; as many as there are cores.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make notebooks from the texts: run every cell in a fresh kernel and store the outputs.

    Nothing is written for a playbook that fails.
    """
    from playbook.kit import glossary, maps, pairing, running
    from playbook.kit.status_line import Progress

    course, console = _course(context), _console()
    chosen = list(dict.fromkeys(course.get(name) for name in names)) if names else list(course.pairs)
    if from_notebook and not names:
        raise InputError("--from-notebook overwrites texts: name the playbooks whose notebooks you edited")
    before: dict[Path, str] = {}
    if from_notebook:
        for playbook in chosen:
            pairing.text_of_notebook(playbook)  # all of them can be texts, or no text is touched
        for playbook in chosen:
            before[playbook.text] = playbook.source
            if pairing.bring_back(playbook):
                _say(console, f"wrote  playbook/{playbook.key}.py")
        course = _course(context)  # the texts were read before
        chosen = [course.get(playbook.key) for playbook in chosen]
    _texts(course.pairs)
    for path in maps.update(course):
        _say(console, f"wrote  {path.relative_to(course.root).as_posix()} (course map, links)")
    for path in glossary.update(course):
        _say(console, f"wrote  {path.relative_to(course.root).as_posix()}")
    failed = 0
    left = [playbook.key for playbook in chosen]

    def told() -> str:
        return f"{len(chosen) - len(left)} of {len(chosen)} refreshed; as they were: {_named(left)}"

    with _told(told), Progress(len(chosen), quiet) as progress:

        def report(playbook: "Playbook", result: bool | Exception) -> None:
            nonlocal failed
            left.remove(playbook.key)
            progress.end(playbook.key)
            with progress.above():
                if isinstance(result, Exception):
                    failed += 1
                    _say(console, f"FAIL   {playbook.key}", "bold red")
                    _say(console, f"       {_reason(playbook, result)}")
                elif not quiet:
                    _say(console, f"{'wrote' if result else 'same '}  notebooks/{playbook.key}.ipynb")
            if isinstance(result, Exception) and playbook.text in before:
                pairing.write_whole(playbook.text, before[playbook.text])

        pairing.refresh_many(chosen, jobs or running.cores(), report, progress.begin)
    _say(console, f"{len(chosen) - failed} refreshed, {failed} failed", "bold")
    if failed:
        raise typer.Exit(FAILED)


def _reason(playbook: "Playbook", error: "Exception | CellFailure") -> str:
    from playbook.kit import pairing

    if not isinstance(error, pairing.CellFailure):
        return str(error)
    first_line = next((line for line in error.source.splitlines() if line.strip()), "")
    code = [c for c in pairing.from_text(playbook).cells if c.cell_type == "code" and c.source.strip()]
    cell = code[error.number - 1]["id"] if error.number <= len(code) else "?"
    return f"{_place(playbook, error.number, cell, error.line, first_line)}\n       {error.error}"


@app.command()
def check(context: Context) -> None:
    """Check every page: text and notebook agree, anatomy, order, exports, generated parts."""
    from playbook.kit import check as rules
    from playbook.kit.status_line import Progress

    course = _course(context)
    with Progress(len(course.pairs) + len(rules.COURSE_RULES)) as progress:
        findings, drift = rules.findings(course, progress.step), rules.drift(course)
    for line in findings:
        typer.echo(line)
    for line in drift:
        _complain(line)
    if drift:
        raise typer.Exit(BAD_INPUT)
    if findings:
        _say(_console(), f"{len(findings)} findings", "bold")
        raise typer.Exit(FAILED)
    _say(_console(), f"{len(course.pairs)} pages: texts and notebooks agree, every rule holds", "green")


@app.command()
def budget(
    context: Context,
    names: Names = None,
    over: Annotated[bool, typer.Option("--over", help="Only pages that are over, or under.")] = False,
) -> None:
    """Show how long and how dense the pages are, in the numbers that `playbook check` holds them to.

    The texts are measured. What a cell shows is what it showed at the last `playbook refresh`.
    """
    from statistics import median

    from rich import box
    from rich.table import Table

    from playbook.kit import budget as limits
    from playbook.kit import pairing
    from playbook.kit.maps import duration

    course, console = _course(context), _console()
    chosen = list(dict.fromkeys(course.get(name) for name in names)) if names else list(course.playbooks)
    found = {p: limits.measure(pairing.with_stored_outputs(p).cells) for p in chosen if p.track}
    if not found:
        raise InputError("the landing page has no budget: name a playbook, or none for all")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("page", no_wrap=True, style="cyan")
    for name in limits.NAMES:
        table.add_column(name, justify="right")
    table.add_column("outside")
    for p, measured in found.items():
        outside = measured.over()
        if outside or not over:
            table.add_row(p.key, *(str(getattr(measured, n)) for n in limits.NAMES), ", ".join(outside))
    middle = (f"{median(getattr(m, n) for m in found.values()):.0f}" for n in limits.NAMES)
    bounds = limits.AT_MOST | limits.AT_LEAST
    table.add_section()
    table.add_row("median", *middle, "")
    table.add_row("at most (shown: at least)", *(str(bounds.get(n, "")) for n in limits.NAMES), "")
    console.print(table)
    many = sum(bool(m.over()) for m in found.values())
    minutes = duration(sum(m.minutes for m in found.values()))
    noun = "page" if len(found) == 1 else "pages"
    _say(console, f"{len(found)} {noun}, {many} outside of the budget, {minutes} to read", "bold")
    if many:
        raise typer.Exit(FAILED)


@app.command("imports")
def imports_(
    context: Context,
    track: Annotated[str, typer.Argument(help="A track, or `pantry`: its modules. Without it the tracks.")] = "",
) -> None:
    """Draw what imports what, as a Mermaid diagram; exit 1, and name them, when imports run back up."""
    from playbook.kit import imports

    course = _course(context)
    edges = imports.graph(course.root)
    folders = sorted({module.partition(".")[0] for module in edges})
    if track and track not in folders:
        raise InputError(f"no track is called {track!r}: they are {', '.join(folders)}")
    print(imports.diagram(course, edges, track))
    if found := list(imports.upward(course, edges)):
        for line in found:
            _complain(line)
        raise typer.Exit(FAILED)


@app.command()
def new(
    context: Context, place: Annotated[str, typer.Argument(metavar="TRACK/NAME", help="Like schema/soft_deletion.")]
) -> None:
    """Make a new playbook with every section of the anatomy, and the module of its exercise, to be filled."""
    from playbook.kit import scaffold

    made, console = scaffold.create(_course(context), place), _console()
    _say(console, f"wrote  playbook/{made.key}.py", "green")
    _say(console, f"wrote  playbook/exercises/{made.key}.py", "green")
    _say(console, "wrote  playbook/course.toml")
    _say(console, "next:")
    _say(console, f"  1. fill every TODO in playbook/{made.key}.py and playbook/exercises/{made.key}.py")
    _say(console, f"  2. playbook run {made.name}      as a script, until it is green")
    _say(console, f"  3. playbook refresh {made.name}  makes the notebook, the course map and the links")
    _say(console, "  4. playbook check        says what is still missing")


# ---------------------------------------------------------------- open and serve


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def lab(
    context: Context,
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]", help="The playbook to open; the landing page when none.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="A new copy of NAME; the old one is kept beside it.")] = False,
    edit: Annotated[bool, typer.Option("--edit", help="Open the original, which git tracks, not your copy.")] = False,
    pack: Annotated[
        bool, typer.Option("--zip", help="Write workbook/workbook.zip to take along, open nothing.")
    ] = False,
    on_binder: Annotated[bool, typer.Option("--on-binder", hidden=True)] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Jupyter chooses a free one from 8888 on.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
) -> None:
    """Open your own copies of the pages in JupyterLab: workbook/, made at the first time and never overwritten.

    Options it does not know are handed on to JupyterLab.
    """
    from importlib.util import find_spec

    from playbook.kit import jupyter, ready, workbook

    course, rest = _course(context), list(name or ())
    if pack or on_binder:  # `--on-binder` makes the workbook and opens nothing: binder/postBuild
        made = [workbook.pack(course)] if pack else workbook.make(course, fleeting=True)[:1]
        for path in made:
            typer.echo(f"wrote  {path.relative_to(course.root).as_posix()}")
        return
    at = _place_of_name(course, rest)
    named = at is not None
    page = course.index if at is None else course.get(rest.pop(at))
    if fresh and (edit or not named):
        raise InputError("--fresh begins your copy of one page again: `playbook lab --fresh NAME`, without `--edit`")
    if not page.notebook.is_file():
        raise InputError(f"notebooks/{page.key}.ipynb does not exist: make it with `playbook refresh {page.name}`")
    if find_spec("jupyterlab") is None:
        raise InputError("JupyterLab is not installed: `python -m pip install -r binder/requirements.txt`")
    if port is not None:
        ready.listen("127.0.0.1", port).close()
    shown, lines = (page.notebook, []) if edit else workbook.prepare(course, page, fresh)
    for line in [*lines, *jupyter.running(course.root)]:
        typer.echo(line)
    command = [sys.executable, "-m", "jupyterlab", *jupyter.options(course.root, shown)]
    command += [f"--port={port}", "--ServerApp.port_retries=0"] if port is not None else []
    command += ["--no-browser"] if no_browser else []
    os.environ |= jupyter.environment()
    _become([*command, *rest, *context.args], course.root)


def _place_of_name(course: "Course", words: Sequence[str]) -> int | None:
    """Where NAME is among options for JupyterLab. A word behind `--option` may be its value, unless it is a page."""
    for at, word in enumerate(words):
        if word.startswith("-"):
            continue
        may_be_value = at > 0 and words[at - 1].startswith("-") and "=" not in words[at - 1]
        if not may_be_value or course.has(word):
            return at
    return None


def _become(command: list[str], folder: Path) -> NoReturn:
    """Let `command` take this process's place, so that it gets the signals itself (JupyterLab asks before it stops)."""
    sys.stdout.flush()
    os.environ.pop("PYTHONOPTIMIZE", None)  # kernels would inherit it, and run without asserts
    os.chdir(folder)
    if os.name == "posix":
        os.execv(command[0], command)
    import subprocess

    process = subprocess.Popen(command)
    while True:
        try:
            raise typer.Exit(process.wait())
        except KeyboardInterrupt:
            continue


@app.command()
def book(
    context: Context,
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the site; `book` in the repository.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser afterwards.")] = False,
) -> None:
    """Build the course as a web site to read and search, from the stored notebooks: no cell is run."""
    from playbook.kit import book as books
    from playbook.kit.status_line import Progress

    course, console = _course(context), _console()
    folder = into or course.root / books.FOLDER
    with _told(lambda: f"no book was built; {folder} is as it was"), Progress(books.steps(course)) as progress:
        try:
            first = books.build(course, folder, progress.step)
        except books.BookError as error:
            for line in error.complaints:
                _complain(line)
            raise typer.Exit(FAILED) from None
    _say(console, f"open the book: {first}", "cyan")
    if open_:
        import webbrowser

        if not webbrowser.open(first.as_uri()):
            typer.echo("no browser was found here: open that file in one", err=True)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only; 0.0.0.0 is everybody.")] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that serve; more than one needs PostgreSQL.")
    ] = 1,
) -> None:
    """Serve Pantry, the package index that the playbooks build. Settings come from the environment.

    Behind a proxy set FORWARDED_ALLOW_IPS to its address or network (10.0.0.0/8,192.168.1.7): X-Forwarded-For is
    believed from there only, by default from nobody, and all clients share the proxy's address and its limits.

    With `--workers` as many as there are cores, PostgreSQL must have connections for all: at most 29 for one process,
    19 for each of two, 14 for each of four or more.
    """
    from playbook.kit import ready

    listening = ready.listen(host, port)
    try:
        if given := os.environ.get("DATABASE_URL", "").strip():
            ready.database_url(given)
        settings = _settings()

        def tell() -> None:
            shown = f"[{host}]" if ":" in host else host
            about = ", without a description" if settings.environment == "production" else ", its description at /docs"
            count = f", {workers} workers" if workers > 1 else ""
            typer.echo(f"Pantry at http://{shown}:{listening.getsockname()[1]}{about}{count}; Ctrl-C stops it")
            sys.stdout.flush()

        code = (_serve_alone if workers == 1 else partial(_serve_together, workers))(settings, listening, tell)
    finally:
        listening.close()
    if code:
        raise typer.Exit(code)


def _serve_alone(settings: Any, listening: Any, tell: Callable[[], None]) -> int:
    """Serve in this process; the exit code."""
    from playbook.kit import ready
    from playbook.kit.data import data_path
    from playbook.kit.status_line import Filling
    from playbook.pantry.stop import Stop

    stop = Stop(settings.stop_seconds)
    stop.on_signals()  # from here on a signal has its budget, also while the database is being prepared
    stop.watch()
    ready.reach(settings.database_url)

    from playbook.pantry import access_log
    from playbook.pantry.server import collect_seldom, server_for

    access_log.configure()
    service = importlib.import_module("playbook.pantry.app")
    # An empty database is filled with the course's real packages; one with packages stays as it is.
    with _reasons(settings), _told(lambda: UNFILLED), Filling() as fill:
        believed = _believed(settings)
        pantry = service.pantry(settings, data_path("packages.csv"), stop=stop, step=fill.step)
    server = server_for(_edge(pantry, believed), stop, settings.max_connections, **OWN_LOG)
    tell()
    collect_seldom()
    server.run(sockets=[listening])
    return 0 if server.started else FAILED


def _serve_together(workers: int, settings: Any, listening: Any, tell: Callable[[], None]) -> int:
    """Serve in several processes that this one looks after; the exit code."""
    from playbook.kit import ready
    from playbook.kit.data import data_path
    from playbook.kit.status_line import Filling
    from playbook.pantry import access_log
    from playbook.pantry.memory import shares
    from playbook.pantry.stop import Stop
    from playbook.pantry.workers import Supervisor, Work, check, divide_hashers
    from playbook.pantry.workers import serve as serve_as_worker

    with _reasons(settings):
        check(settings.database_url)
        believed = _believed(settings)
    access_log.configure()
    service = importlib.import_module("playbook.pantry.app")  # before the fork: its memory is shared

    def prepare() -> None:
        with _reasons(settings), _told(lambda: UNFILLED), Filling() as fill:
            ready.reach(settings.database_url)
            service.prepare_alone(settings, data_path("packages.csv"), fill.step)

    def worker(share: Any) -> Work:
        def work(stop: Any, say: Callable[[str], None]) -> int:
            divide_hashers(share)
            with _reasons(settings):
                pantry = service.pantry(settings, stop=stop, share=share)
            edge = _edge(pantry, believed)
            return serve_as_worker(edge, listening, stop, share, say, settings.max_connections, **OWN_LOG)

        return work

    works = [worker(share) for share in shares(workers, service.MEMORIES)]
    return Supervisor(Stop(settings.stop_seconds), listening, InputError).run(prepare, works, tell)


UNFILLED = "the service had not started; packages are loaded as a whole or not at all"
OWN_LOG: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}


@contextmanager
def _reasons(settings: Any) -> Iterator[None]:
    """What the block refuses comes out as an InputError, in one line."""
    from playbook.kit.database_errors import in_one_line

    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None
    except _database_errors() as error:
        raise InputError(in_one_line(error, settings.database_url)) from None


def _believed(settings: Any) -> Any:
    from playbook.pantry import proxies

    production = settings.environment == "production"
    return proxies.trusted_networks(os.environ.get(proxies.VARIABLE, ""), production)


def _edge(pantry: Any, believed: Any) -> Any:
    """What stands before the service: the log of requests, and whose word is taken for an address."""
    from playbook.pantry import access_log, proxies

    logged = access_log.AccessLog(pantry, (pantry, pantry.state.auth_part))
    return proxies.TrustedProxies(logged, believed)  # in place of uvicorn's, which believes 127.0.0.1


@app.command()
def openapi() -> None:
    """Print Pantry's OpenAPI document, as it is published: playbook openapi > docs/openapi.json."""
    module = importlib.import_module("playbook.pantry.published")
    typer.echo(module.text(), nl=False)


@app.command()
def repair(
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=KEY", help="A row to delete, with what belongs to it. Repeatable."),
    ] = None,
) -> None:
    """Look for lost index entries in Pantry's DuckDB file, and make all its indexes again. Stop the service first.

    No row is changed, except those that `--remove` names; then the file as it was is kept beside the new one.
    """
    from playbook.kit import ready

    if given := os.environ.get("DATABASE_URL", "").strip():
        ready.database_url(given)
    module = importlib.import_module("playbook.pantry.repair")
    try:
        clean = module.repair(_settings().database_url, remove or [], typer.echo)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not clean:
        raise typer.Exit(FAILED)


def _database_errors() -> tuple[type[Exception], ...]:
    """What a database's refusal comes as: SQLAlchemy's, the drivers' own (COPY), the file system's, Alembic's."""
    import duckdb
    import psycopg
    import sqlalchemy as sa
    from alembic.util import CommandError

    return sa.exc.SQLAlchemyError, psycopg.Error, duckdb.Error, OSError, CommandError


def _settings() -> Any:
    # By name: a lesson is not type-checked as a whole, its cells define things twice.
    lesson = importlib.import_module("playbook.pantry.settings")
    try:
        return lesson.load_settings()
    except lesson.SettingsError as error:
        problems = str(error).splitlines()
    for problem in problems[:-1]:
        _complain(problem)
    raise InputError(problems[-1])


@app.command()
def postgres() -> None:
    """Start the packaged PostgreSQL, print its URL, and stop it at Ctrl-C."""
    import shlex
    import time

    from playbook.kit.postgres import Server

    server = Server()
    try:
        typer.echo(f"PostgreSQL is running: {server.url}")
        typer.echo(f"  export DATABASE_URL={shlex.quote(server.url)}")
        typer.echo("  then, in that shell: `playbook serve`, `playbook run --postgres`, or any playbook as a script")
        typer.echo("Ctrl-C stops it and deletes its data.")
        sys.stdout.flush()
        while True:
            time.sleep(3600)  # until a signal ends it
    finally:
        server.stop()


@app.command()
def bench(
    context: Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="All when none.")] = None,
) -> None:
    """Run the benchmarks: each prints a table of measurements and ratios."""
    import subprocess
    from difflib import get_close_matches

    root = _course(context).root
    scripts = {p.stem.removeprefix("bench_"): p for p in sorted((root / "tests" / "benchmarks").glob("bench_*.py"))}
    if not scripts:
        raise InputError("there are no benchmarks: tests/benchmarks/bench_*.py matches nothing")
    for name in names or ():
        if name not in scripts:
            near = get_close_matches(name, scripts, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(scripts)}"
            raise InputError(f"no benchmark is called {name!r}: {hint}")
    failed = [name for name in names or scripts if subprocess.call([sys.executable, str(scripts[name])], cwd=root)]
    if failed:
        typer.echo(f"failed: {', '.join(failed)}", err=True)
        raise typer.Exit(FAILED)


@app.command("binder-url")
def binder_url(
    context: Context,
    repo: Annotated[
        str | None, typer.Option(metavar="URL", help="Another repository than the remote `origin`.")
    ] = None,
    branch: Annotated[str, typer.Option(help="A branch, tag or commit; HEAD is the default branch.")] = "HEAD",
) -> None:
    """Print the link that opens the course on mybinder.org, made from the repository's own remote."""
    from playbook.kit import binder

    typer.echo(binder.launch_url(repo or binder.remote(_course(context).root), branch))


# ---------------------------------------------------------------- exit codes


def _complain(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)  # so that every `finally` runs


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        code = app(arguments, prog_name="playbook", standalone_mode=False)
    except typer.TyperException as error:  # an unknown command or option, a missing argument
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "playbook"
        _complain(f"{error.format_message().rstrip('.')} (`{command} --help` shows what there is)")
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # PostgresUnavailable by name: its module is not imported unless a command did.
        if isinstance(error, InputError) or type(error).__name__ == "PostgresUnavailable":
            _complain(str(error))
            return BAD_INPUT
        raise
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the script `playbook`."""
    signal.signal(signal.SIGTERM, _terminated)
    surroundings.escape_what_cannot_be_shown()
    sys.exit(_exit_code(arguments))


if __name__ == "__main__":
    main()
