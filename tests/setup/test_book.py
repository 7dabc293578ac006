"""The book, built once from a copy of the repository, and read in a real browser without a network."""

import hashlib
import html
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_browser import FLAGS, TEST_SECONDS, picture_of_failure
from test_readme import command

from playbook.kit import book, pairing
from playbook.kit.binder import launch_url
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError

CUT = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
REPOSITORY = "https://github.com/someone/course"


def start(course: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "playbook.kit.cli", "--course", str(course), "book", *arguments]
    environment = pairing.clean_environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=course, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def run(course: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(course, *arguments)
    out, errors = process.communicate(timeout=250)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def repository(clone: Path) -> Path:
    """The copy, with a remote: then there is a link to Binder."""
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    subprocess.run(["git", "remote", "add", "origin", f"{REPOSITORY}.git"], cwd=clone, check=True)
    return clone


@pytest.fixture(scope="module")
def site(repository: Path) -> Path:
    before = set(repository.iterdir())
    code, out, errors = run(repository)
    assert (code, errors) == (0, ""), errors
    assert out == f"open the book: {repository / 'book' / 'index.html'}\n", "no progress where nobody looks"
    assert set(repository.iterdir()) - before == {repository / "book"}
    return repository / "book"


# ---------------------------------------------------------------- what is built


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_the_pages_stand_in_course_order(site: Path) -> None:
    course = Course(site.parent)
    sidebar = text_of(site / "index.html").partition('<nav class="bd-links')[2].partition("</nav>")[0]
    captions = [html.unescape(c) for c in re.findall(r'class="caption-text">(.*?)<', sidebar)]
    assert captions[: len(course.tracks)] == [f"{track.name}: {track.title}" for track in course.tracks]
    links = re.findall(r'class="reference internal" href="([^"]+)\.html"', sidebar)
    assert links[: len(course.playbooks)] == [page.key for page in course.playbooks]
    assert links[-1] == "genindex"


def test_every_section_of_a_page_can_be_linked_to(site: Path) -> None:
    for page in Course(site.parent).playbooks:
        built = text_of(site / f"{page.key}.html")
        linked = re.findall(r'<h2>(.*?)<a class="headerlink" href="#([^"]+)"', built)
        plain = [html.unescape(re.sub(r"<[^>]+>", "", heading)) for heading, _ in linked]
        wanted = [heading.replace("`", "") for heading in page.sections]
        assert [heading for heading in plain if heading in wanted] == wanted, page.key
        assert [anchor for _, anchor in linked if f'<section id="{anchor}">' not in built] == []


def folds(built: str) -> Counter[str]:
    return Counter(re.findall(r'<p class="collapsed admonition-title">(.*?)</p>', built))


def test_what_a_page_folds_follows_from_its_roles(site: Path) -> None:
    for page in Course(site.parent).playbooks:
        cells = pairing.read_notebook(page).cells
        roles = Counter(tag for cell in cells for tag in cell.metadata.get("tags", ()))
        wanted = Counter({"Hint 1": 1, "Hint 2": 1, "Solution": 1})
        wanted["Prediction: open for the answer"] = roles["predict"]
        wanted["What the page needs to stage this"] = roles["stage"]
        assert folds(text_of(site / f"{page.key}.html")) == +wanted, page.key


FOREIGN = re.compile(
    r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"  # in a page
    r"|(?:url\(|@import\s+)\s*[\"']?(?:https?:)?//[^)\s]*",  # in a style sheet
    re.I,
)


def test_no_page_and_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 40
    assert {path.name: FOREIGN.findall(text_of(path)) for path in files if FOREIGN.search(text_of(path))} == {}


@pytest.mark.parametrize(
    "foreign",
    ['<script async src="https://a.b/c.js">', '<link rel="x" href="//a.b/c.css">', "url('http://a.b/c')"],
)
def test_a_file_from_another_host_would_be_found(foreign: str) -> None:
    assert FOREIGN.search(foreign)
    assert not FOREIGN.search('<script src="../_static/a.js"><a href="https://a.b">')


def test_the_button_opens_the_page_in_binder(site: Path) -> None:
    [address] = set(re.findall(r'<a href="(https://mybinder[^"]+)"', text_of(site / "api" / "errors.html")))
    assert html.unescape(address) == launch_url(REPOSITORY).replace("index.ipynb", "api/errors.ipynb")


def test_mermaid_is_the_file_that_npm_has() -> None:
    """Version 11.17.2 of @mermaid-js/tiny. For another `npm pack @mermaid-js/tiny`: take script, licence and hash."""
    script = (book.STATIC / book.MERMAID).read_bytes()
    assert hashlib.sha256(script).hexdigest() == "7a644017d37f93c8359790884e6b67fb1f747c78eb20475952404bd87190a3f8"


# ---------------------------------------------------------------- in a browser


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium(browser_program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program, args=[*FLAGS, CUT])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    context.set_default_timeout(TEST_SECONDS * 1000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(TEST_SECONDS * 1000)
    yield page
    context.close()


def watch(page: Page) -> tuple[list[str], list[str]]:
    """The errors that the browser reports, and the addresses that it asks for, as they come."""
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    return errors, asked


def search(page: Page, words: str) -> None:
    page.keyboard.press("Control+k")
    page.locator("dialog input[type=search], .search-button__search-container input").first.fill(words)
    page.keyboard.press("Enter")


def test_a_reader_looks_something_up(page: Page, address: str, site: Path, tmp_path: Path) -> None:
    errors, asked = watch(page)
    with picture_of_failure(page, tmp_path):
        page.goto(f"{address}index.html")
        search(page, "lost update")
        hits = page.locator("#search-results ul.search > li > a")
        expect(page.locator("#search-results")).to_contain_text("found")
        chosen = hits.filter(has_text="Transactions").first
        assert hits.all_inner_texts().index("Transactions") < 3, "the page that has it for a topic comes first"
        chosen.click()

        page.wait_for_url(re.compile(r"/transactions\.html.*#index-\d+$"))
        defined = page.locator("p", has=page.locator("strong", has_text="lost update")).first
        expect(defined).to_be_in_viewport()

        notebook = pairing.read_notebook(Course(site.parent).get("transactions"))
        cell = page.locator("div.cell", has_text="def in_two_transactions").first
        cell.hover()
        cell.locator("button.copybtn").click()
        expect(cell.locator("button.copybtn")).to_have_class(re.compile("success"))
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied in [code.source for code in notebook.cells if "def in_two_transactions" in code.source]

        predicted = page.locator("details", has_text="Prediction: open for the answer").first
        answer = predicted.get_by_text("Ada: accepted, Bob: accepted, used: 60")
        expect(answer).to_be_hidden()
        predicted.locator("summary").click()
        expect(answer).to_be_visible()
        expect(page.locator("div.tag_exercise div.cell_input")).to_be_visible()
        expect(page.locator("div.tag_solution div.cell_input")).to_be_hidden()
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def test_diagrams_are_drawn_and_follow_the_colours_of_the_page(page: Page, address: str, site: Path) -> None:
    errors, asked = watch(page)
    drawn = {}
    for lesson in Course(site.parent).playbooks:
        if many := text_of(lesson.notebook).count("```mermaid"):
            page.goto(f"{address}{lesson.key}.html")
            for fold in page.locator("details", has=page.locator("div.diagram")).all():
                fold.locator("summary").click()
            expect(page.locator("div.diagram > svg")).to_have_count(many)
            expect(page.locator("div.diagram > pre:visible")).to_have_count(0)
            drawn[lesson.key] = many
    assert len(drawn) >= 5

    picture = page.locator("div.diagram > svg").first
    before = picture.evaluate("svg => svg.innerHTML")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Color mode").first.click()
    page.get_by_role("button", name="Dark").first.click()
    assert page.evaluate(ground) != light
    page.wait_for_function("before => document.querySelector('div.diagram > svg')?.innerHTML !== before", arg=before)
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def test_the_book_works_as_a_file(page: Page, site: Path) -> None:
    """Without a server: a browser loads neither modules nor excerpts from files."""
    errors, asked = watch(page)
    page.goto((site / "schema" / "identity.html").as_uri())
    expect(page.locator("div.diagram > svg")).to_be_visible()
    search(page, "lost update")
    page.locator("#search-results a", has_text="Transactions").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Transactions")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


# ---------------------------------------------------------------- what is refused, and what an interrupt leaves

PAGE = '''# %% [markdown]
"""
# One

It promises.

## First

See [the other]({link}).
"""

# %%
print("code")

# %% [markdown] tags=["nav"]
"""
Next: nothing
"""
'''


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A course of one page, with a glossary, and a book of before."""
    root = tmp_path / "small"
    (root / "playbook" / "t").mkdir(parents=True)
    tracks = '[[track]]\nname = "t"\ntitle = "a track"\nplaybooks = ["one"]\n'
    (root / "playbook" / "course.toml").write_text(tracks, encoding="utf-8")
    write(Course(root).index, "t/one.ipynb")
    write(Course(root).get("one"), "../glossary.md#Write-skew")
    (root / "notebooks" / "glossary.md").write_text("# Glossary\n\n## Write skew\n\nA rule breaks.\n", encoding="utf-8")
    (root / "book").mkdir()
    (root / "book" / book.MARK).write_text("", encoding="utf-8")
    (root / "book" / "index.html").write_text("the book of before", encoding="utf-8")
    return root


def write(page: Playbook, link: str) -> None:
    page.text.write_text(PAGE.format(link=link), encoding="utf-8")
    page.notebook.parent.mkdir(parents=True, exist_ok=True)
    page.notebook.write_text(pairing.dumps(pairing.from_text(page)), encoding="utf-8")


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_a_glossary_is_in_the_book_and_without_a_remote_there_is_no_binder(small: Path) -> None:
    code, _, errors = run(small)
    assert (code, errors) == (0, "")
    assert left(small) == {"playbook", "notebooks", "book"}
    page = text_of(small / "book" / "t" / "one.html")
    assert 'href="../glossary.html#write-skew"' in page
    assert "mybinder" not in page
    assert 'href="glossary.html"' in text_of(small / "book" / "index.html")
    assert "the book of before" not in text_of(small / "book" / "index.html")


def test_links_that_lead_nowhere_fail_the_build_and_the_book_of_before_stays(small: Path) -> None:
    write(Course(small).index, "t/two.ipynb")
    write(Course(small).get("one"), "../glossary.md#Write-skews")
    code, out, errors = run(small)
    assert (code, out) == (1, "")
    assert len(errors.splitlines()) == 2, errors
    assert re.search(r"^error: notebooks/index.ipynb, cell 1.*t/two\.ipynb", errors, re.M), errors
    assert re.search(r"^error: notebooks/t/one.ipynb, cell 1.*write-skews", errors, re.M), errors
    assert left(small) == {"playbook", "notebooks", "book"}
    assert text_of(small / "book" / "index.html") == "the book of before"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that can be sent to another process")
def test_an_interrupt_leaves_nothing_behind(clone: Path, small: Path) -> None:
    """The whole course, which takes longer than a signal; its book lies beside the small one."""
    into = small / "book"
    process = start(clone, "--into", str(into))
    deadline = time.monotonic() + TEST_SECONDS
    while not (begun := list(small.glob(".book-*/doctrees"))) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert begun, "it is at work"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=TEST_SECONDS)
    said = f"interrupted: no book was built; {into} is as it was\n"
    assert (process.returncode, out, errors) == (130, "", said)
    assert left(small) == {"playbook", "notebooks", "book"}
    assert text_of(into / "index.html") == "the book of before"


def test_a_folder_of_something_else_is_refused(small: Path) -> None:
    course = Course(small)
    for into, words in (
        (small / "notebooks", "holds something else"),
        (small / "playbook" / "course.toml", "is a file"),
        (small / "missing" / "book", "make it first"),
    ):
        with pytest.raises(InputError, match=words):
            book.build(course, into)
    shutil.rmtree(small / "notebooks" / "t")
    with pytest.raises(InputError, match="playbook refresh one"):
        book.build(course, small / "book")
    assert left(small) == {"playbook", "notebooks", "book"}


# ---------------------------------------------------------------- what publishes it


def test_the_workflow_builds_the_book_as_the_readme_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    [job] = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert job["environment"]["url"] == "${{ steps.published.outputs.page_url }}"
    steps = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    assert list(steps) == [
        f"actions/{name}"
        for name in ("checkout", "setup-python", "configure-pages", "upload-pages-artifact", "deploy-pages")
    ]
    assert steps["actions/deploy-pages"]["id"] == "published"
    python = (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert f"python-{steps['actions/setup-python']['with']['python-version']}" == python
    assert steps["actions/upload-pages-artifact"]["with"]["path"] == book.FOLDER
    set_up, build = [step["run"] for step in job["steps"] if "run" in step]
    assert command("run") == f"{set_up} && .venv/bin/playbook run"
    assert build == ".venv/bin/playbook book"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "`playbook book --open`" in readme
    assert ".github/workflows/book.yml" in readme
