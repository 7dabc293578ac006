"""What a TypeScript front end gets: the document read by Spectral, types made of it, and programs compiled and run.

openapi-typescript makes the types, openapi-fetch is the client, `tsc --strict` the judge. In `openapi_client/`:
`client.ts` are the calls of a front end, `wrong.ts` those that must not compile, `next.ts` the handlers of a Next.js
app, `browser.ts` what a browser asks them. One installation, one run of the compiler and one of Spectral serve all
tests. Node as for the other contract tests: skipped where there is none, but not in CI.
"""

import contextlib
import copy
import io
import json
import re
import runpy
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from better_auth_server import node
from pantry_process import served

from playbook.kit.course import Course
from playbook.kit.live import serving
from playbook.pantry.published import document

Json = dict[str, Any]
SOURCE = Path(__file__).parent / "openapi_client"
COMPILER = {
    "strict": True, "noUncheckedIndexedAccess": True, "target": "es2022", "module": "nodenext", "types": [],
    "lib": ["es2022", "dom", "dom.iterable"],
}  # fmt: skip
PROGRAMS = ("node.d.ts", "client.ts", "wrong.ts", "browser.ts")


@dataclass(frozen=True)
class FrontEnd:
    """A folder with the compiled programs; what the compiler says, by file and line; the apps of the page."""

    place: Path
    said: dict[str, dict[int, str]]
    page: str
    shop: Any


def run(place: Path, program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What it prints. Raises AssertionError, with its errors, when it fails."""
    command = [node(), str(place / program), *arguments]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def faulty(said: Json) -> Json:
    """The three faults that `client.ts` is for: a default in a patch, a member that may be missing, no key."""
    said = copy.deepcopy(said)
    schemas = said["components"]["schemas"]
    schemas["OrganizationPatch"]["properties"]["name"]["default"] = ""
    schemas["OrganizationPage"]["required"].remove("next")
    post = said["paths"]["/organizations"]["post"]
    post["parameters"] = [p for p in post["parameters"] if p["name"] != "Idempotency-Key"]
    return said


def page_programs(page: str) -> dict[str, str]:
    """The shop's program as the page shows it, and one with the lines that the page says are refused."""
    _, program, _ = re.findall(r"```ts\n(.*?)```", page, re.DOTALL)
    rows = re.findall(
        r"^\| `(.+)` \| (.+) \|$", page.split("refuses what would crash:")[1].split("###")[0], re.MULTILINE
    )
    lines = [program, "const asked = await client.GET('/orders/{number}', { params: { path: { number: 1 } } });"]
    for statement, words in rows:
        whole = {
            "data": f"if (asked.data) {{ const {{ data }} = asked; {statement}; }}",
            "error": f"if (asked.error) {{ const {{ error }} = asked; {statement}; }}",
            "path": f"client.GET('/orders/{{number}}', {{ params: {{ {statement} }} }});",
            "client": statement,
        }
        lines += [f"// {words}", whole[re.match(r"\w+", statement)[0]]]  # type: ignore[index]
    assert len(rows) == 5
    return {"shop_note.ts": program, "shop_wrong.ts": "\n".join(lines)}


@pytest.fixture(scope="module")
def front_end(openapi_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    """Everything compiled, by one process that makes the types and one that compiles."""
    place = tmp_path_factory.mktemp("front_end")
    (place / "node_modules").symlink_to(openapi_packages / "node_modules", target_is_directory=True)
    for file in SOURCE.iterdir():
        shutil.copy(file, place)
    with contextlib.redirect_stdout(io.StringIO()):
        shop = runpy.run_path(str(Course().get("contract").text))["mended"]
    documents = {"schema": document(), "faults": faulty(document()), "shop": shop.openapi()}
    for name, said in documents.items():
        (place / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")
    page = Course().get("contract").source
    client = (SOURCE / "client.ts").read_text(encoding="utf-8")
    programs = page_programs(page) | {"faults_client.ts": client.replace("./schema.js", "./faults.js")}
    for name, text in programs.items():
        (place / name).write_text(text, encoding="utf-8")
    run(place, "generate.mjs", *documents)
    project = {"compilerOptions": COMPILER, "files": [*PROGRAMS, *programs]}
    (place / "tsconfig.json").write_text(json.dumps(project), encoding="utf-8")
    command = [node(), "node_modules/typescript/bin/tsc", "--project", ".", "--pretty", "false"]
    done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", timeout=240)
    errors: dict[str, dict[int, str]] = {}
    for name, line, text in re.findall(r"^(\S+?)\((\d+),\d+\): (.*(?:\n  .*)*)", done.stdout, re.MULTILINE):
        line_of_file = errors.setdefault(name, {})
        line_of_file[int(line)] = f"{line_of_file.get(int(line), '')} {text}".strip()
    assert errors, done.stdout + done.stderr  # of wrong.ts at least
    return FrontEnd(place, errors, page, shop)


def expected_in(place: Path, name: str) -> dict[int, str]:
    """The lines that must not compile, each with the words that stand above it."""
    lines = (place / name).read_text(encoding="utf-8").splitlines()
    return {number + 1: line[3:] for number, line in enumerate(lines, 1) if number > 1 and line.startswith("// ")}


def not_as_expected(said: dict[int, str], expected: dict[int, str]) -> list[str]:
    words = {line: text.split(": ", 1)[-1] for line, text in expected.items()}
    found = [f"line {line}: {words[line]!r} is not in {said.get(line, 'nothing')!r}" for line in words
             if words[line] not in said.get(line, "")]  # fmt: skip
    return found + [f"line {line}: {text}" for line, text in said.items() if line not in words]


# ---------------------------------------------------------------- Pantry's client


def test_a_generated_client_compiles_and_works(front_end: FrontEnd, tmp_path: Path) -> None:
    assert front_end.said.keys() == {"wrong.ts", "shop_wrong.ts", "faults_client.ts"}
    with served(f"duckdb:///{tmp_path}/pantry.duckdb", tmp_path) as base:
        served_document = httpx.get(f"{base}/openapi.json", trust_env=False).json()
        printed = run(front_end.place, "client.js", base)
        next_printed = run(front_end.place, "browser.js", "http://app.example", env={"PANTRY_URL": f"{base}/ignored"})
    assert served_document == document()
    seen = {line["what"]: line for line in map(json.loads, printed.splitlines())}
    statuses = {what: line["status"] for what, line in seen.items()}
    assert statuses == {
        "create": 201, "create with a key": 201, "create again with the key": 201, "create twice": 409,
        "patch the description": 200, "patch the name": 200, "remove the description": 200,
        "patch with an old tag": 412, "list": 200, "list without anything": 200, "publish": 201,
        "members that are always there": 200, "patch nothing": 200, "not there": 404, "request id": 200,
        "a blank name": 422, "pointers": 200, "delete what owns packages": 409, "delete the package": 204,
        "delete": 204,
    }  # fmt: skip
    assert seen["patch the description"]["data"]["name"] == "Acme"
    assert seen["patch the name"]["data"]["description"] == "Anvils"
    assert seen["remove the description"]["data"]["description"] is None
    assert {"acme", "acme-labs"} <= set(seen["list"]["data"])
    assert seen["list"]["data"] == sorted(set(seen["list"]["data"]))
    assert seen["members that are always there"]["data"] == [None, None]
    assert (seen["request id"]["data"], seen["pointers"]["data"]) == ("string", ["#/name"])
    for what in ("create twice", "patch with an old tag", "not there", "a blank name", "delete what owns packages"):
        assert seen[what]["sent"] == "application/problem+json"
        assert seen[what]["error"]["status"] == statuses[what]
    next_seen(next_printed)


def next_seen(printed: str) -> None:
    """What a browser gets of the handlers: the session's cookie both ways, nothing kept, no other path or origin."""
    seen = {line["what"]: line for line in map(json.loads, printed.splitlines())}
    assert {what: line["status"] for what, line in seen.items() if "status" in line} == {
        "read as a stranger": 401, "sign in, wrong password": 401, "sign in from another site": 403, "sign in": 200,
        "read": 200, "change without a tag": 428, "change": 200, "change with an old tag": 412,
        "change from another site": 403, "read ..": 404, "read ../api/auth/get-session": 404,
        "read //evil.example": 404, "read acme?x=1": 404, "read %2e%2e": 404, "not there": 404,
    }  # fmt: skip
    assert {line["kept"] for line in seen.values() if "kept" in line} == {"no-store"}
    [cookie] = seen["sign in"]["attributes"]
    assert cookie[0] == "better-auth.session_token"
    assert "HttpOnly" in cookie
    assert seen["sign in"]["data"] == {"signedIn": True}  # no token for scripts
    assert (seen["read"]["data"]["slug"], seen["change"]["data"]["name"]) == ("acme-labs", "Acme Ltd")
    assert seen["change"]["data"]["slug"] == "acme-labs"
    assert seen["not there"]["data"]["type"] == "/problems/not-found"  # of Pantry; the others never got there
    assert {line["data"]["type"] for what, line in seen.items() if what.startswith("read ") and "." in what} == {
        "about:blank"
    }
    assert seen["titles for a stranger"]["data"] == "sign in"
    assert "Acme Ltd" in seen["titles"]["data"]


def test_wrong_calls_do_not_compile(front_end: FrontEnd) -> None:
    expected = expected_in(front_end.place, "wrong.ts")
    assert len(expected) == 19
    assert not_as_expected(front_end.said["wrong.ts"], expected) == []


def test_left_out_modelled_as_a_value_would_not_compile(front_end: FrontEnd) -> None:
    found = "\n".join(front_end.said["faults_client.ts"].values())
    for expected in ("Property 'name' is missing", "string | null | undefined", "Idempotency-Key"):
        assert expected in found, found


# ---------------------------------------------------------------- the page "contract"


def test_the_page_shows_what_is_made_compiled_and_refused(front_end: FrontEnd) -> None:
    types, _, handlers = re.findall(r"```ts\n(.*?)```", front_end.page, re.DOTALL)
    made = re.sub(r"/\*\*.*?\*/", "", (front_end.place / "shop.d.ts").read_text("utf-8"), flags=re.DOTALL)
    assert types.split() == re.search(r"FullOrder: \{.*?\};", made, re.DOTALL)[0].split()  # type: ignore[index]
    code = (SOURCE / "next.ts").read_text("utf-8")
    for part in handlers.strip().split("\n\n"):
        assert part in code, part
    expected = expected_in(front_end.place, "shop_wrong.ts")
    assert not_as_expected(front_end.said["shop_wrong.ts"], expected) == []


def test_the_page_s_program_runs(front_end: FrontEnd) -> None:
    program = "import { note } from './shop_note.js'; for (const n of [1, 2, 9]) console.log(await note(n));"
    (front_end.place / "notes.mjs").write_text(program, encoding="utf-8")
    with serving(front_end.shop) as client:
        printed = run(front_end.place, "notes.mjs", str(client.base_url))
    assert printed.splitlines() == ["RING TWICE", "no note", 'sorry: "there is no such order"']


# ---------------------------------------------------------------- Spectral


def unwaived(findings: list[Json], waivers: list[Json]) -> tuple[list[str], list[Json]]:
    """What no waiver covers, and the waivers that cover nothing."""
    used, rest = [], []
    for one in findings:
        at = "/".join(map(str, one["path"]))
        mine = [w for w in waivers if re.fullmatch(w["rule"], one["code"]) and re.fullmatch(w["at"], at)]
        used += mine
        rest += [] if mine else [f"{one['code']} at {at}: {one['message']}"]
    return sorted(set(rest)), [waiver for waiver in waivers if waiver not in used]


def planted(said: Json) -> Json:
    """Pantry's document with four faults."""
    said = copy.deepcopy(said)
    token = {"name": "token", "in": "query", "schema": {"type": "string", "maxLength": 9, "format": "byte"}}
    listing = said["paths"]["/packages"]["get"]
    listing["parameters"] = [*listing["parameters"], token]
    del listing["responses"]["429"]
    del said["components"]["schemas"]["NewPackage"]["properties"]["organization"]["maxLength"]
    said["servers"] = [{"url": "http://pantry.example", "x-internal": True}]
    return said


def test_spectral_finds_nothing_that_is_not_waived(front_end: FrontEnd) -> None:
    waivers = tomllib.loads((SOURCE / "waivers.toml").read_text("utf-8"))["waiver"]
    assert all(len(waiver["reason"]) > 40 for waiver in waivers)
    (front_end.place / "planted.json").write_text(json.dumps(planted(document())), encoding="utf-8")
    command = [node(), "node_modules/@stoplight/spectral-cli/dist/index.js", "lint", "schema.json", "planted.json",
               "--ruleset", "spectral.yaml", "--format", "json", "--quiet"]  # fmt: skip
    done = subprocess.run(command, cwd=front_end.place, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 1, done.stdout + done.stderr  # it found something: what is waived, and what was planted
    found = json.loads(done.stdout)
    by_file = {name: [one for one in found if one["source"].endswith(name)] for name in ("schema.json", "planted.json")}
    assert unwaived(by_file["schema.json"], waivers) == ([], [])
    rest, _ = unwaived(by_file["planted.json"], waivers)
    assert {line.split(" at ")[0] for line in rest} == {
        "owasp:api2:2023-no-credentials-in-url", "owasp:api4:2023-rate-limit-responses-429",
        "owasp:api4:2023-string-limit", "owasp:api8:2023-no-server-http",
    }  # fmt: skip


def test_a_waiver_that_nothing_needs_is_named() -> None:
    waivers = [{"rule": "a", "at": "info"}, {"rule": "b", "at": "info"}]
    findings = [{"code": "a", "path": ["info"], "message": ""}, {"code": "a", "path": ["tags"], "message": "no"}]
    assert unwaived(findings, waivers) == (["a at tags: no"], [waivers[1]])
