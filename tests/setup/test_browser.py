"""A reader with a browser: the landing page, its link to a playbook, every cell run, the checks passing.

A real JupyterLab serves a copy of the repository to a real Chromium. Skipped where none is installed, unless
`REQUIRE_BROWSER` is set, as it is in CI.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from playbook.kit import exercises, glossary, pairing
from playbook.kit.course import Course

START_SECONDS = 30  # for JupyterLab, which takes about 3
TEST_SECONDS = 75  # for each of the two tests; the longer one takes about 12
FLAGS = [
    "--no-sandbox",  # Chromium's own sandbox refuses to run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOBODY_ASKS = {  # the question about Jupyter's news, which would cover the page
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"}
}


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

    def page(self, path: str) -> str:
        return f"{self.url}lab/tree/{path}?{urlencode({'token': self.token})}"


def as_on_binder(clone: Path, config: Path) -> None:
    """The settings that `binder/postBuild` makes, in a folder of our own."""
    settings = config / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NOBODY_ASKS), encoding="utf-8")
    lines = (clone / "binder" / "postBuild").read_text(encoding="utf-8").splitlines()
    command = shlex.split(next(line for line in lines if line.startswith("jupytext-config ")))
    command[command.index("--settings-file") + 1] = str(settings)
    subprocess.run([sys.executable, "-m", "jupytext_config", *command[1:]], check=True)


@pytest.fixture(scope="module")
def lab(clone: Path, private: dict[str, str], browser_program: str) -> Iterator[Lab]:
    """JupyterLab over the copy. It chooses its port and its token, and writes both into a file."""
    deadline = Deadline(START_SECONDS)
    as_on_binder(clone, Path(private["JUPYTER_CONFIG_DIR"]))
    log = Path(private["HOME"]) / "lab.log"
    options = ["--no-browser", "--ip=127.0.0.1", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={clone}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=clone, env=private, stdout=output, stderr=output
        )
    try:
        written = Path(private["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{process.pid}.json"

        def ready() -> bool:
            assert process.poll() is None, f"JupyterLab ended: {log.read_text(errors='replace')[-2000:]}"
            return written.is_file() and written.read_text(encoding="utf-8").endswith("}")

        deadline.wait_for(ready, "JupyterLab")
        server = json.loads(written.read_text(encoding="utf-8"))
        yield Lab(server["url"], server["token"])
    finally:
        process.terminate()  # it shuts its kernels down
        try:
            process.wait(20)
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


def test_a_reader_follows_the_landing_page_to_a_playbook_and_runs_it(
    lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    course = Course(clone)
    chosen = course.get("identity")
    assert pairing.differences(chosen) == [], "JupyterLab would show the text's cells, not the notebook's"
    stored = pairing.read_notebook(chosen)
    check, says = last_check(stored)
    solution = next(i for i, cell in enumerate(stored.cells) if "solution" in cell.metadata.get("tags", ()))
    text = chosen.text.read_bytes()

    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page("notebooks/index.ipynb"))
        index = notebook_panel(page)
        expect(index.get_by_role("heading", level=1)).to_contain_text(course.index.title, timeout=deadline.left())
        index.get_by_role("link", name=chosen.title, exact=True).click()

        panel = notebook_panel(page)
        expect(panel.get_by_role("heading", level=1)).to_contain_text(chosen.title, timeout=deadline.left())
        expect(panel.locator(".jp-Cell")).to_have_count(len(stored.cells), timeout=deadline.left())
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=deadline.left())

        # The stored outputs already say that all is well: what is seen afterwards must come from this run.
        choose(page, "Edit", "Clear Outputs of All Cells")
        expect(panel.locator(".jp-OutputArea-output")).to_have_count(0)
        choose(page, "Run", "Run All Cells")
        run_to_the_end(page, panel, stored, deadline)

        outcome = panel.locator(".jp-Cell").nth(check).locator(".jp-OutputArea-output").last
        outcome.scroll_into_view_if_needed()
        expect(outcome).to_be_visible()
        expect(outcome).to_contain_text(says)
        drawings = panel.locator(".jp-RenderedMermaid img")
        expect(drawings).to_have_count(json.dumps(stored).count("```mermaid"), timeout=deadline.left())
        answer = panel.locator(".jp-Cell").nth(solution)
        answer.scroll_into_view_if_needed()
        expect(answer.locator(".jp-OutputArea-output")).to_have_text(exercises.RIGHT)
        save(page, chosen.notebook, deadline)
        assert chosen.text.read_bytes() == text, "running and saving a notebook must leave its text alone"
        # JupyterLab unfolds the outputs that it clears; the cells are the same.
        assert [line for line in pairing.differences(chosen) if "is not folded as its tags" not in line] == []

        expect(answer.locator(".jp-InputArea-editor")).to_have_count(0)  # folded away until the reader opens it
        answer.locator(".jp-Placeholder-content").first.click()
        expect(answer.locator(".jp-InputArea-editor")).to_be_visible()
    page.close()


@pytest.mark.parametrize("term", ["token", "load balancer"])
def test_a_term_leads_to_its_sentence_in_the_glossary(
    term: str, lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    course = Course(clone)
    known = {found.term: found for found in glossary.terms(course)}
    chosen = course.get({"token": "sessions", "load balancer": "expand_and_contract"}[term])
    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page(f"notebooks/{chosen.key}.ipynb"))
        notebook_panel(page).get_by_role("link", name=term, exact=True).click()
        # The glossary has 100 entries: without its anchor the page would stand at the first of them.
        expect(page.get_by_role("heading", name=term, exact=True)).to_be_in_viewport(timeout=deadline.left())
        expect(page.get_by_text(known[term].sentence, exact=True)).to_be_in_viewport()
    page.close()


def run_to_the_end(page: Page, panel: Locator, stored: pairing.Notebook, deadline: Deadline) -> None:
    """Wait until every code cell has its number and the kernel is idle; an error in a cell ends the waiting.

    A cell that is folded away shows no number, but it runs between others.
    """
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    shown = [f"[{n}]:" for n, cell in enumerate(code, 1) if "source_hidden" not in cell.metadata.get("jupyter", ())]
    prompts = panel.locator(".jp-CodeCell .jp-InputArea-prompt")
    errors = panel.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')

    def ended() -> bool:
        return errors.count() > 0 or prompts.all_text_contents() == shown

    deadline.wait_for(ended, "the last cell")
    assert errors.all_text_contents() == []
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=deadline.left())


def test_a_text_opens_as_a_notebook_with_the_stored_outputs(
    lab: Lab, browser: BrowserContext, clone: Path, tmp_path: Path, deadline: Deadline
) -> None:
    settings = Course(clone).get("settings")
    stored = pairing.read_notebook(settings)
    _, says = last_check(stored)
    text = settings.text.read_bytes()

    page = browser.new_page()
    with picture_of_failure(page, tmp_path):
        page.goto(lab.page(f"playbook/{settings.key}.py"))
        panel = notebook_panel(page)
        expect(panel.get_by_role("heading", level=1)).to_contain_text(settings.title, timeout=deadline.left())
        expect(panel.locator(".jp-Cell")).to_have_count(len(stored.cells), timeout=deadline.left())
        deadline.wait_for(lambda: says in " ".join(panel.locator(".jp-OutputArea-output").all_text_contents()), says)
        save(page, settings.text, deadline)
        assert settings.text.read_bytes() == text, "opening and saving a text in JupyterLab must leave it as it is"
        # Folding is written by `playbook refresh`; a text that JupyterLab saves has none, and `check` says so.
        lost = pairing.differences(settings)  # of the cells that are folded, and nothing else
        assert lost
        assert [line for line in lost if "is not folded as its tags" not in line] == []
    page.close()
