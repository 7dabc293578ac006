"""The course map and the previous/next links are made from course.toml and the cards, and stay so."""

import json
from pathlib import Path

import nbformat
import pytest
import small_course

from playbook.kit import maps, pairing
from playbook.kit.course import Course


@pytest.fixture
def course(tmp_path: Path) -> Course:
    root = tmp_path / "course"
    small_course.start(root)
    small_course.add(root, "foundations/first")
    small_course.add(root, "foundations/second")
    small_course.add(root, "api/third")
    return Course(root)


def store_unexecuted(course: Course) -> None:
    """Notebooks as they would be stored, without the seconds it takes to run them."""
    for playbook in course.pairs:
        pairing.write_whole(playbook.notebook, pairing.dumps(pairing.from_text(playbook)))


@pytest.mark.parametrize(("minutes", "words"), [(0, "0 min"), (59, "59 min"), (60, "1 h"), (95, "1 h 35 min")])
def test_durations(minutes: int, words: str) -> None:
    assert maps.duration(minutes) == words


def test_the_map_has_a_table_a_track_with_minutes_and_promises(course: Course) -> None:
    text = maps.course_map(course, course.root)
    assert "3 playbooks, 48 min in all." in text
    assert "### foundations: the ground (32 min)" in text
    assert "### api: the contract (16 min)" in text
    promise = "Keep a number between its bounds, whatever comes in."
    assert f"| [Third](notebooks/api/third.ipynb) | 16 | {promise} |" in text


def test_the_core_path_is_bold_and_has_its_hours(course: Course) -> None:
    toml = course.root / "playbook" / "course.toml"
    toml.write_text('core = ["first", "third"]\n' + toml.read_text(encoding="utf-8"), encoding="utf-8")
    course = Course(course.root)
    minutes = maps.duration(course.get("first").minutes + course.get("third").minutes)
    text = maps.course_map(course, course.root)
    assert f" The **core path**, 2 of them in bold, takes {minutes}: begin there.\n" in text
    assert "| **[Third](notebooks/api/third.ipynb)** |" in text
    assert "| [Second](notebooks/foundations/second.ipynb) |" in text


def test_links_are_relative_to_where_the_map_stands(course: Course) -> None:
    assert "[First](foundations/first.ipynb)" in course.index.text.read_text()
    assert "[First](notebooks/foundations/first.ipynb)" in (course.root / "README.md").read_text()


def test_a_page_links_to_the_one_before_the_map_and_the_one_after(course: Course) -> None:
    assert maps.navigation(course, course.get("first")) == (
        "[course map](../index.ipynb) · Next: [Second](second.ipynb)"
    )
    assert maps.navigation(course, course.get("second")) == (
        "Previous: [First](first.ipynb) · [course map](../index.ipynb) · Next: [Third](../api/third.ipynb)"
    )
    assert maps.navigation(course, course.get("third")) == (
        "Previous: [Second](../foundations/second.ipynb) · [course map](../index.ipynb)"
    )


def test_every_link_leads_to_a_page(course: Course) -> None:
    for playbook in course.playbooks:
        for link in maps.navigation(course, playbook).split("](")[1:]:
            target = (playbook.notebook.parent / link.split(")")[0]).resolve()
            assert target in {p.notebook.resolve() for p in course.pairs}


def test_what_is_up_to_date_is_not_written(course: Course) -> None:
    assert maps.outdated(course) == []
    assert maps.update(course) == []


def test_a_changed_promise_is_noticed_in_both_maps_and_brought_up_to_date(course: Course) -> None:
    small_course.replace(course.get("third"), "Keep a number between", "Hold a number between")
    changed = Course(course.root)
    assert [line.split(":")[0] for line in maps.outdated(changed)] == ["playbook/index.py", "README.md"]
    assert {p.name for p in maps.update(changed)} == {"index.py", "README.md"}
    assert maps.outdated(Course(course.root)) == []


def test_a_changed_order_is_noticed_in_the_links(course: Course) -> None:
    toml = course.root / "playbook" / "course.toml"
    toml.write_text(
        toml.read_text().replace('"first",', '"x",').replace('"second",', '"first",').replace('"x"', '"second"')
    )
    changed = Course(course.root)
    stale = [line.split(":")[0] for line in maps.outdated(changed) if "previous/next" in line]
    assert stale == [f"playbook/{key}.py" for key in ("foundations/second", "foundations/first", "api/third")]
    maps.update(changed)
    assert maps.outdated(Course(course.root)) == []


def test_only_the_generated_part_of_a_text_changes(course: Course) -> None:
    page = course.get("second")
    before = page.text.read_text()
    small_course.replace(page, "Next: [Third]", "Next: [Nonsense]")
    maps.update(Course(course.root))
    assert page.text.read_text() == before


def test_stored_notebooks_are_brought_along_and_keep_their_outputs(course: Course) -> None:
    store_unexecuted(course)
    page = course.get("second")
    notebook = nbformat.read(page.notebook, as_version=4)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs, code.execution_count = [nbformat.v4.new_output("stream", text="kept\n")], 1
    pairing.write_whole(page.notebook, pairing.dumps(notebook))
    small_course.replace(course.get("third"), "# Third", "# Last")
    assert page.notebook in maps.update(Course(course.root))
    stored = json.loads(page.notebook.read_text())
    assert "Next: [Last](../api/third.ipynb)" in "".join(stored["cells"][-1]["source"])
    assert [c["outputs"][0]["text"] for c in stored["cells"] if c.get("outputs")] == [["kept\n"]]
    texts = [c.source for c in pairing.from_text(Course(course.root).get("second")).cells]
    assert texts == [c.source for c in nbformat.read(page.notebook, as_version=4).cells]


def test_a_place_that_is_missing_is_said_and_nothing_is_invented(course: Course) -> None:
    (course.root / "README.md").write_text("# No map here\n")
    page = course.get("first")
    small_course.replace(page, '# %% [markdown] tags=["nav"]', "# %% [markdown]")
    changed = Course(course.root)
    assert maps.update(changed) == []
    first, last = maps.outdated(changed)
    assert (
        first
        == 'playbook/foundations/first.py: needs one markdown cell tagged "nav"; write `# %% [markdown] tags=["nav"]`'
    )
    assert last.startswith("README.md: has no place for the course map")


def test_a_bar_in_a_promise_does_not_break_the_table(course: Course) -> None:
    small_course.replace(course.get("third"), "Keep a number between", "Keep `a|b` between")
    assert "Keep `a\\|b` between" in maps.course_map(Course(course.root), course.root)
