"""The data files are what data/README.md says: remade byte for byte, every planted fault counted in the file itself.

The counting shares nothing with the generator but the numbers: it reads the finished file, and PEP 440 is read by
`packaging`, which the generator does not use.
"""

import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from datetime import datetime
from functools import cache
from pathlib import Path

import pytest
from packaging.version import InvalidVersion, Version

from playbook.kit import data
from playbook.kit.errors import InputError

FOLDER = data.ROOT / "data"
SCRIPT = FOLDER / "make_legacy_uploads.py"

LICENSES = {
    "MIT": "MIT", "MIT License": "MIT", "mit": "MIT", "The MIT License": "MIT",
    "Apache-2.0": "Apache", "Apache 2.0": "Apache", "Apache License, Version 2.0": "Apache", "ASL 2.0": "Apache",
    "BSD-3-Clause": "BSD", "BSD 3-Clause": "BSD", "New BSD": "BSD", "BSD (3 clause)": "BSD",
    "GPL-3.0-only": "GPL", "GPLv3": "GPL", "GNU GPL v3": "GPL",
    "MPL-2.0": "MPL", "MPL 2.0": "MPL", "Mozilla Public License 2.0": "MPL",
    "Proprietary": "proprietary", "internal use only": "proprietary",
}  # fmt: skip
SHAPES = {
    "time_iso_z": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "time_iso_offset": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d",
    "time_naive": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "time_us": r"\d\d/\d\d/\d{4} \d\d:\d\d [AP]M",
    "time_german": r"\d\d\.\d\d\.\d{4} \d\d:\d\d",
    "time_epoch": r"\d+",
}


def load(name: str) -> list[dict[str, str]]:
    """The rows as text; a line that is not UTF-8 is read as Latin-1."""
    lines = []
    for line in (FOLDER / name).read_bytes().split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("latin-1"))
    return list(csv.DictReader(io.StringIO("\n".join(lines), newline="")))


def planted() -> dict[str, int]:
    spec = importlib.util.spec_from_file_location("make_legacy_uploads", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PLANTED


def readme_numbers() -> dict[str, int]:
    """The rows `| name | 1,234 | ...` of the README's table of planted faults."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {k: int(n.replace(",", "")) for k, n in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text, re.M)}


def package_key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version_key(text: str) -> Version | str:
    try:
        return Version(text)
    except InvalidVersion:
        return text


def address(email: str) -> str:
    local, domain = email.lower().split("@")
    local = local.split("+")[0]
    if domain in ("postbox.example", "postboxmail.example"):  # one provider that ignores dots
        return f"{local.replace('.', '')}@postbox.example"
    return f"{local}@{'example.com' if domain == 'example.org' else domain}"


def is_mojibake(text: str) -> bool:
    try:
        return text.encode("latin-1").decode("utf-8") != text
    except UnicodeError:
        return False


def extra(groups) -> int:
    return sum(len(members) - 1 for members in groups.values())


def count_releases(rows) -> dict[str, int]:
    """Uploads of one release: sent again, or with another digest; as typed and after normalisation."""
    found = {}
    for suffix, package, version in (("", package_key, version_key), ("_as_typed", str, str)):
        same, digests = defaultdict(set), defaultdict(set)
        for r in rows:
            key = (package(r["package"]), version(r["version"]))
            same[*key, r["sha256"]].add(r["upload_id"])
            digests[key].add(r["sha256"])
        found |= {f"reuploads{suffix}": extra(same), f"conflicting_digests{suffix}": extra(digests)}
    for name in ("reuploads", "conflicting_digests"):
        found[f"{name}_respelled"] = found[name] - found.pop(f"{name}_as_typed")
    return found


def count_packages_and_versions(rows) -> dict[str, int]:
    spellings, valid = defaultdict(set), []
    for r in rows:
        spellings[package_key(r["package"])].add(r["package"])
        if isinstance(version_key(r["version"]), Version):
            valid.append(r["version"])
    highest: dict[str, Version] = {}
    against_time = 0
    for r in sorted(rows, key=lambda r: int(r["upload_id"])):  # the old system counted upwards
        version = version_key(r["version"])
        if isinstance(version, Version):
            key = package_key(r["package"])
            against_time += version < highest.get(key, version)
            highest[key] = max(version, highest.get(key, version))
    return {
        "packages": len(spellings),
        "packages_in_several_spellings": sum(len(s) > 1 for s in spellings.values()),
        "package_respelled": sum(r["package"] != package_key(r["package"]) for r in rows),
        "version_not_pep440": len(rows) - len(valid),
        "version_v_prefix": sum(v.startswith("v") for v in valid),
        "version_zero_dropped": sum(re.fullmatch(r"\d+\.\d+", v) is not None for v in valid),
        "version_leading_zero": sum(re.search(r"(^|\.)0\d", v) is not None for v in valid),
        "version_prerelease_respelled": sum(re.search(r"-rc\.|RC", v) is not None for v in valid),
        "version_order_against_time": against_time,
    }  # fmt: skip


def count_people(rows) -> dict[str, int]:
    spellings, names, teams, spans = defaultdict(set), defaultdict(set), defaultdict(set), {}
    for r in rows:
        key, name = address(r["uploader_email"]), r["uploader_name"]
        spellings[key].add(r["uploader_email"])
        if r["team"]:
            teams[key].add(r["team"])
        if name and len(name) <= 100 and not is_mojibake(name):
            names[name].add(key)
        first, last = spans.get(key, (int(r["upload_id"]),) * 2)
        spans[key] = (min(first, int(r["upload_id"])), max(last, int(r["upload_id"])))
    # Somebody who took another surname: an address ends in the middle of the history, and later another with the same
    # given name begins, in the same team.
    ids = sorted(int(r["upload_id"]) for r in rows)
    ended = [k for k, (_, last) in spans.items() if last < ids[len(ids) * 4 // 5]]
    begun = [k for k, (first, _) in spans.items() if first > ids[len(ids) // 5]]
    renamed = [
        (old, new)
        for old in ended
        for new in begun
        if old.split(".")[0] == new.split(".")[0] and teams[old] == teams[new] and spans[old][1] < spans[new][0]
    ]
    emails = [r["uploader_email"] for r in rows]
    return {
        "people": len(spellings) - len(renamed),
        "people_renamed": len(renamed),
        "people_in_several_spellings": sum(len(s) > 1 for s in spellings.values()),
        "people_moved_team": sum(len(t) > 1 for t in teams.values()),
        "names_of_two_people": sum(len(k) > 1 for k in names.values()),
        "email_upper_case": sum(e != e.lower() for e in emails),
        "email_plus_tag": sum("+" in e for e in emails),
        "email_old_domain": sum(e.endswith("@example.org") for e in emails),
        "email_alias_domain": sum(e.endswith("@postboxmail.example") for e in emails),
        "teams": len({r["team"] for r in rows} - {""}),
    }


def count_times(rows) -> dict[str, int]:
    times = [r["uploaded_at"] for r in rows]
    found = {name: sum(re.fullmatch(shape, t) is not None for t in times) for name, shape in SHAPES.items()}
    assert sum(found.values()) == len(rows) - times.count(""), "a time in a form that the README does not list"
    kinds = Counter()
    for text in filter(None, times):
        try:
            year = parse(text).year
            kinds[f"date_year_{year}"] += not 2016 <= year <= 2026
        except ValueError:
            kinds["date_february_31" if re.search(r"02-31|31\.02", text) else "date_month_13"] += 1
    return found | {k: n for k, n in kinds.items() if n}


def parse(text: str) -> datetime:
    for form in ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S", "%m/%d/%Y %I:%M %p", "%d.%m.%Y %H:%M"):
        if re.fullmatch(r"\d+", text):
            return datetime.fromtimestamp(int(text))
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise ValueError(text)


def count_fields(rows) -> dict[str, int]:
    licenses = defaultdict(set)
    for r in rows:
        if r["license"] in LICENSES:
            licenses[package_key(r["package"])].add(LICENSES[r["license"]])
    known = {r["license"] for r in rows} - {""} - {r["license"] for r in rows if len(r["license"]) > 255}
    assert known <= LICENSES.keys(), known - LICENSES.keys()
    not_utf8 = 0
    for line in (FOLDER / "legacy_uploads.csv").read_bytes().split(b"\n"):
        try:
            line.decode()
        except UnicodeDecodeError:
            not_utf8 += 1
    return {
        "licenses": len({LICENSES[text] for text in known}),
        "license_spellings": len(known),
        "packages_relicensed": sum(len(kinds) > 1 for kinds in licenses.values()),
        **{f"empty_{c}": sum(not r[c] for r in rows) for c in ("uploader_name", "team", "uploaded_at", "license")},
        "license_full_text": sum(len(r["license"]) > 255 for r in rows),
        "uploader_name_too_long": sum(len(r["uploader_name"]) > 100 for r in rows),
        "uploader_name_mojibake": sum(is_mojibake(r["uploader_name"]) for r in rows),
        "rows_not_utf8": not_utf8,
    }


@cache
def counted() -> dict[str, int]:
    rows = load("legacy_uploads.csv")
    distinct = list({tuple(r.values()): r for r in rows}.values())
    return {
        "rows": len(rows),
        "exact_duplicates": len(rows) - len(distinct),
        **count_releases(distinct),
        **count_packages_and_versions(rows),
        **count_people(rows),
        **count_times(rows),
        **count_fields(rows),
    }


@pytest.mark.parametrize("fault", planted())
def test_planted_fault_is_counted_in_the_file(fault):
    assert counted()[fault] == planted()[fault]


def test_nothing_is_counted_that_is_not_planted():
    assert counted().keys() == planted().keys()


def test_readme_repeats_the_planted_numbers():
    assert readme_numbers() == planted()


def test_upload_ids_rise_with_time_and_repeat_only_in_exact_duplicates():
    rows = list({tuple(r.values()): r for r in load("legacy_uploads.csv")}.values())
    assert len({r["upload_id"] for r in rows}) == len(rows)
    rows.sort(key=lambda r: int(r["upload_id"]))
    exact = [datetime.fromisoformat(r["uploaded_at"]) for r in rows if plausible(r["uploaded_at"])]
    assert exact == sorted(exact)


def plausible(text: str) -> bool:
    """Whether `text` says its zone and is a date on which somebody can have uploaded."""
    if not re.fullmatch(f"{SHAPES['time_iso_z']}|{SHAPES['time_iso_offset']}", text):
        return False
    try:
        return 2016 <= datetime.fromisoformat(text).year <= 2026
    except ValueError:
        return False


def test_fields_that_have_no_fault_are_whole():
    for r in load("legacy_uploads.csv"):
        assert None not in r
        assert re.fullmatch(r"[0-9a-f]{64}", r["sha256"])
        assert int(r["size_bytes"]) > 0
        assert r["yanked"] in ("true", "false")
        assert re.fullmatch(r"[^@\s]+@(example\.com|example\.org|postbox\.example|postboxmail\.example)",
                            r["uploader_email"].lower())  # fmt: skip


def test_remaking_gives_the_same_bytes(tmp_path):
    out = tmp_path / "again.csv"
    done = subprocess.run([sys.executable, SCRIPT, "--out", out], capture_output=True, text=True, check=True)
    assert out.read_bytes() == (FOLDER / "legacy_uploads.csv").read_bytes()
    printed = dict(line.split() for line in done.stdout.splitlines())
    assert {name: int(number.replace(",", "")) for name, number in printed.items()} == planted()


def test_a_path_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_manifest_is_true():
    manifest = tomllib.loads((FOLDER / "manifest.toml").read_text(encoding="utf-8"))
    assert manifest.keys() == {"packages.csv", "legacy_uploads.csv", "better_auth.json"}
    assert data.check_all() == sorted(manifest)
    recorded = json.loads((FOLDER / "better_auth.json").read_text(encoding="utf-8"))["exchanges"]
    rows = {name: len(recorded if name.endswith(".json") else load(name)) for name in manifest}
    assert rows == {name: entry["rows"] for name, entry in manifest.items()}


def test_line_ends_are_lf():
    assert all(b"\r" not in (FOLDER / name).read_bytes() for name in ("packages.csv", "legacy_uploads.csv"))


def test_packages_are_what_the_readme_says():
    rows = load("packages.csv")
    without = [r for r in rows if not r["version"]]
    assert len(rows) == 14_985
    assert len(without) == 14
    assert without == [r for r in rows if not r["last_release"]]
    ranks = [int(r["rank"]) for r in rows]
    assert ranks == sorted(set(ranks))
    assert (ranks[0], ranks[-1]) == (1, 15_000)
    assert all(r["name"] == package_key(r["name"]) for r in rows)
    assert sum(r["last_release"] == "2026-11" for r in rows) == 330
    assert max(r["last_release"] for r in rows) == "2026-11"
    assert min(r["last_release"] for r in rows if r["last_release"]) == "2006-06"
    assert all(isinstance(version_key(r["version"]), Version) for r in rows if r["version"])


@pytest.fixture
def copied(tmp_path):
    """A copy of the data that a test may spoil."""
    for name in ("packages.csv", "manifest.toml"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    return tmp_path


def refused(folder: Path, name: str = "packages.csv") -> str:
    data._manifest.cache_clear()
    with pytest.raises(InputError) as error:
        data.data_path(name, folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_whole_copy_is_accepted(copied):
    assert data.data_path("packages.csv", copied) == copied / "packages.csv"


def test_a_missing_file_is_refused(copied):
    (copied / "packages.csv").unlink()
    message = refused(copied)
    assert "is missing" in message
    assert "git checkout -- data/packages.csv" in message


def test_a_file_cut_short_is_refused(copied):
    content = (copied / "packages.csv").read_bytes()
    (copied / "packages.csv").write_bytes(content[:-1])
    message = refused(copied)
    assert "512,100 bytes instead of 512,101" in message
    assert "git checkout -- data/packages.csv" in message


def test_a_changed_file_is_refused(copied):
    content = (copied / "packages.csv").read_bytes()
    (copied / "packages.csv").write_bytes(content.replace(b"boto3", b"b0to3", 1))
    message = refused(copied)
    assert "has been changed" in message
    assert "git checkout -- data/packages.csv" in message


def test_a_missing_manifest_is_refused(copied):
    (copied / "manifest.toml").unlink()
    assert "git checkout -- data" in refused(copied)


def test_an_unknown_file_is_refused_with_the_known_names(copied):
    assert "known are better_auth.json, legacy_uploads.csv, packages.csv" in refused(copied, "package.csv")
