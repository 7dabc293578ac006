"""A reader with a browser: the workbook's landing page, a page changed and run, the course untouched.

`playbook lab` serves a copy of the repository to a real Chromium. Skipped where none is installed, unless
`REQUIRE_BROWSER` is set, as it is in CI.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import nbformat
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from playbook.kit import answers, exercises, glossary, pairing, progress, workbook
from playbook.kit.course import Course

START_SECONDS = 30  # for JupyterLab, which takes about 3
TEST_SECONDS = 75  # for each of the two tests; the longer one takes about 20
FLAGS = [
    "--no-sandbox",  # Chromium's own sandbox refuses to run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Deadline:
    """The end of the time that all waiting of one test shares."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds

    def left(self) -> float:
        """Milliseconds, as Playwright wants them; never 0, which Playwright takes for "for ever"."""
        return max(1.0, (self.ends - time.monotonic()) * 1000)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            if self.left() <= 1:
                raise TimeoutError(f"waited in vain for {what}")
            time.sleep(0.1)


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(TEST_SECONDS)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, clone: Path) -> dict[str, str]:
    """An environment in which Jupyter and the browser see and touch nothing of the user's, and import the copy."""
    home = tmp_path_factory.mktemp("home")
    folders = {
        "HOME": "",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "XDG_CONFIG_HOME": "xdg-config",
        "XDG_CACHE_HOME": "xdg-cache",
    }
    own = {variable: str(home / folder) for variable, folder in folders.items()}
    return pairing.clean_environment() | own | {"PYTHONPATH": str(clone)}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: where it listens, and its secret."""

    url: str
    token: str

    def page(self, path: str = "") -> str:
        """What the browser opens first when there is no path. No tab of an earlier test is opened again."""
        where = f"lab/tree/{path}" if path else ""
        return f"{self.url}{where}?{urlencode({'token': self.token, 'reset': ''})}"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lab(clone: Path, private: dict[str, str], browser_program: str) -> Iterator[Lab]:
    """`playbook lab` over the copy, which is committed. It chooses its port and its token, and writes both down."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: nobody can tell what has changed")
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    git(clone, "init", "-q")
    git(clone, "add", "-A")
    git(clone, *who, "commit", "-q", "-m", "as it stands")
    deadline = Deadline(START_SECONDS)
    log, runtime = Path(private["HOME"]) / "lab.log", Path(private["JUPYTER_RUNTIME_DIR"])
    options = ["lab", "--no-browser", "--ip=127.0.0.1", "--ServerApp.allow_root=True"]
    with log.open("wb") as output:
        command = [sys.executable, "-m", "playbook.kit.cli", *options]
        process = subprocess.Popen(command, cwd=clone, env=private, stdout=output, stderr=output)
    try:
        written = runtime / f"jpserver-{process.pid}.json"  # JupyterLab takes the command's place

        def ready() -> bool:
            assert process.poll() is None, f"JupyterLab ended: {log.read_text(errors='replace')[-2000:]}"
            return written.is_file() and written.read_text(encoding="utf-8").endswith("}")

        deadline.wait_for(ready, "JupyterLab")
        server = json.loads(written.read_text(encoding="utf-8"))
        yield Lab(server["url"], server["token"])
    finally:
        process.terminate()  # it shuts its kernels down
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def browser(browser_program: str, private: dict[str, str]) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            Path(private["HOME"]) / "profile",
            executable_path=browser_program,
            headless=True,
            args=FLAGS,
            env=dict(private),
            viewport={"width": 1400, "height": 1000},
            timeout=START_SECONDS * 1000,
        )
        context.set_default_timeout(TEST_SECONDS * 1000)
        yield context
        context.close()


@contextmanager
def picture_of_failure(page: Page, folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        picture = folder / "failure.png"
        page.screenshot(path=picture)
        error.add_note(f"what the browser showed: {picture}")
        raise


def notebook_panel(page: Page) -> Locator:
    """The notebook in front."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def choose(page: Page, menu: str, item: str) -> None:
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def save(page: Page, written: Path, deadline: Deadline) -> None:
    """Save, and wait until the file was written and the tab is no longer marked as changed."""
    before = written.stat().st_mtime_ns
    page.keyboard.press("ControlOrMeta+s")
    deadline.wait_for(lambda: written.stat().st_mtime_ns != before, "the save")
    expect(page.locator(".lm-mod-current.jp-mod-dirty")).to_have_count(0, timeout=deadline.left())


def last_check(stored: pairing.Notebook) -> tuple[int, str]:
    """The index of the last code cell of "Check it", and the line with which it says what held."""
    inside, found = False, None
    for index, cell in enumerate(stored.cells):
        if cell.cell_type == "markdown" and "## " in cell.source:
            inside = "## Check it" in cell.source and "## Your turn" not in cell.source
        elif inside and cell.cell_type == "code":
            found = index
    assert found is not None, "no code cell below Check it"
    printed = "".join(output.text for output in stored.cells[found].outputs if output.get("name") == "stdout")
    return found, printed.strip().splitlines()[-1]


def cell(panel: Locator, notebook: pairing.Notebook, tag: str, number: int = 0) -> Locator:
    """The cell with this tag, where there are several the one with this number."""
    found = [i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", ())]
    return panel.locator(".jp-Cell").nth(found[number])


def write(page: Page, where: Locator, text: str, over: bool = False) -> None:
    """Put `text` at the top of a code cell, or over all of it."""
    where.scroll_into_view_if_needed()
    where.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a" if over else "ControlOrMeta+Home")
    page.keyboard.insert_text(text)


def opened(page: Page, title: str, notebook: pairing.Notebook, deadline: Deadline) -> Locator:
    """The notebook with this title, once all its cells are there and its kernel waits."""
    panel = notebook_panel(page)
    expect(panel.get_by_role("heading", level=1)).to_contain_text(title, timeout=deadline.left())
    expect(panel.locator(".jp-Cell")).to_have_count(len(notebook.cells), timeout=deadline.left())
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=deadline.left())
    return panel


def run_all(page: Page, panel: Locator, notebook: pairing.Notebook, deadline: Deadline) -> None:
    """Run every cell, and wait until each code cell has its number and the kernel is idle; no cell may fail.

    A cell that is folded away shows no number, but it runs between others.
    """
    choose(page, "Run", "Run All Cells")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [f"[{n}]:" for n, cell in enumerate(code, 1) if "source_hidden" not in cell.metadata.get("jupyter", ())]
    prompts = panel.locator(".jp-CodeCell .jp-InputArea-prompt")
    errors = panel.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')

    def ended() -> bool:
        return errors.count() > 0 or prompts.all_text_contents() == shown

    deadline.wait_for(ended, "the last cell")
    assert errors.all_text_contents() == []
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=deadline.left())


def test_a_reader_works_in_the_workbook_and_the_course_stays_as_it_is(
    lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    course = Course(clone)
    chosen, follows = course.get("identity"), course.get("natural_keys")
    where = workbook.places(course)
    copies = {page: nbformat.read(where[page], as_version=4) for page in (course.index, chosen, follows)}
    copy = copies[chosen]
    check, says = last_check(pairing.read_notebook(chosen))
    answer = answers.solution(chosen).replace(f"assert {answers.call(chosen)}", "")

    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page())
        index = opened(page, course.index.title, copies[course.index], deadline)
        listed = page.locator(".jp-DirListing-itemText").all_text_contents()
        assert listed == [f"{n:02}-{track.name}" for n, track in enumerate(course.tracks, 1)] + ["index.ipynb"]
        expect(page.locator(".Toastify__toast, .jp-Dialog")).to_have_count(0)  # JupyterLab asks nothing
        index.get_by_role("link", name=chosen.title, exact=True).last.click()

        panel = opened(page, chosen.title, copy, deadline)
        write(page, cell(panel, copy, "export"), "print('my own change')\n")
        write(page, cell(panel, copy, "exercise"), answer, over=True)
        run_all(page, panel, copy, deadline)
        expect(cell(panel, copy, "export").locator(".jp-OutputArea-output")).to_have_text("my own change")
        outcome = panel.locator(".jp-Cell").nth(check + 1).locator(".jp-OutputArea-output").last  # below "your copy"
        expect(outcome).to_contain_text(says)
        expect(cell(panel, copy, "predict").locator(".jp-OutputArea-output").first).to_be_visible()
        hint = panel.locator("details").first  # no cell, or running all would have shown it
        expect(hint.locator("p")).not_to_be_visible()
        hint.locator("summary").click()
        expect(hint.locator("p")).to_be_visible()
        drawings = panel.locator(".jp-RenderedMermaid img")
        expect(drawings).to_have_count(json.dumps(pairing.read_notebook(chosen)).count("```mermaid"))
        save(page, where[chosen], deadline)
        assert "my own change" in where[chosen].read_text(encoding="utf-8")
        assert progress.read(clone / "workbook") == progress.Progress({chosen.key}, {chosen.key: exercises.RIGHT})

        panel.get_by_role("link", name=follows.title, exact=True).last.click()
        run_all(page, opened(page, follows.title, copies[follows], deadline), copies[follows], deadline)
        save(page, where[follows], deadline)

        page.get_by_role("tab", name="index.ipynb").click()
        index.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        seen = index.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
        expect(seen).to_contain_text(f"1 of {len(course.playbooks)}", timeout=deadline.left())
        expect(seen.get_by_role("link", name=course.core[0].title).first).to_be_visible()
        assert git(clone, "status", "--porcelain") == ""
    page.close()


def test_an_original_that_is_opened_run_and_saved_stays_a_pair(
    lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    settings = Course(clone).get("settings")
    stored = pairing.read_notebook(settings)
    check, says = last_check(stored)
    text = settings.text.read_bytes()

    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page(f"playbook/{settings.key}.py"))
        panel = opened(page, settings.title, stored, deadline)
        deadline.wait_for(lambda: says in " ".join(panel.locator(".jp-OutputArea-output").all_text_contents()), says)
        save(page, settings.text, deadline)
        assert settings.text.read_bytes() == text, "opening and saving a text in JupyterLab must leave it as it is"
        assert pairing.differences(settings) == []

        page.goto(lab.page(f"notebooks/{settings.key}.ipynb"))
        panel = opened(page, settings.title, stored, deadline)
        # The stored outputs already say that all is well: what is seen afterwards must come from this run.
        choose(page, "Edit", "Clear Outputs of All Cells")
        expect(panel.locator(".jp-OutputArea-output")).to_have_count(0)
        run_all(page, panel, stored, deadline)
        expect(panel.locator(".jp-Cell").nth(check).locator(".jp-OutputArea-output").last).to_contain_text(says)
        answer = cell(panel, stored, "solution")
        expect(answer.locator(".jp-OutputArea-output")).to_have_text(exercises.RIGHT)
        expect(answer.locator(".jp-InputArea-editor")).to_have_count(0)  # folded away until the reader opens it
        save(page, settings.notebook, deadline)
        assert settings.text.read_bytes() == text, "running and saving a notebook must leave its text alone"
        assert pairing.differences(settings) == []
        assert not progress.read(clone / "workbook").verdicts.get(settings.key), "the original is not the reader's"
    page.close()


def test_a_term_leads_to_its_sentence_in_the_glossary(
    lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    """From the reader's copy, and to a term of two words: the harder case of each."""
    course, term = Course(clone), "load balancer"
    known = {found.term: found for found in glossary.terms(course)}
    chosen = course.get("expand_and_contract")
    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page(str(workbook.places(course)[chosen].relative_to(clone))))
        notebook_panel(page).get_by_role("link", name=term, exact=True).click()
        # The glossary has 100 entries: without its anchor the page would stand at the first of them.
        expect(page.get_by_role("heading", name=term, exact=True)).to_be_in_viewport(timeout=deadline.left())
        expect(page.get_by_text(known[term].sentence, exact=True)).to_be_in_viewport()
    page.close()
