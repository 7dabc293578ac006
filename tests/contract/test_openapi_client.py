"""A client generated from the OpenAPI document compiles with `tsc --strict` and works against the running service.

openapi-typescript makes types of `/openapi.json`, openapi-fetch is the client, `openapi_client/client.ts` the calls of
a front end. Node as for the other contract tests: skipped where there is none, but not in CI.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from better_auth_server import node
from pantry_process import served

SOURCE = Path(__file__).parent / "openapi_client"
TSC = ("--strict", "--noUncheckedIndexedAccess", "--target", "es2022",
       "--module", "nodenext", "--lib", "es2022,dom,dom.iterable", "--pretty", "false")  # fmt: skip


@contextmanager
def workplace(folder: Path, installed: Path) -> Iterator[Path]:
    """A folder with the calls beside the packages: Node looks for packages where the program is."""
    place = folder / "client"
    place.mkdir()
    (place / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
    for file in ("client.ts", "package.json"):
        shutil.copy(SOURCE / file, place)
    yield place


def run(place: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [node(), str(place / program), *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", timeout=240)


def compiled(place: Path, document: dict[str, object]) -> str:
    """What tsc says against the calls; empty when they compile."""
    (place / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    made = run(place, "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "schema.d.ts")
    assert made.returncode == 0, made.stdout + made.stderr
    done = run(place, "node_modules/typescript/bin/tsc", *TSC, "client.ts")
    assert bool(done.stdout) == bool(done.returncode), done.stderr
    return done.stdout


def test_a_generated_client_compiles_and_works(openapi_packages: Path, tmp_path: Path) -> None:
    with (
        served(f"duckdb:///{tmp_path}/pantry.duckdb", tmp_path) as base,
        workplace(tmp_path, openapi_packages) as place,
    ):
        document = httpx.get(f"{base}/openapi.json", trust_env=False, timeout=60).json()
        assert compiled(place, document) == ""
        done = run(place, "client.js", base)
    assert done.returncode == 0, done.stderr
    seen = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
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


def test_left_out_modelled_as_a_value_would_not_compile(openapi_packages: Path, tmp_path: Path) -> None:
    """The three faults that this test is for: a default in a patch, an answer's member that may be missing, no key."""
    from playbook.auth.mail import MemorySender
    from playbook.pantry.app import pantry
    from playbook.pantry.settings import Settings

    settings = Settings(environment="test", database_url="duckdb:///:memory:openapi_client")
    document = pantry(settings, sender=MemorySender()).openapi()
    schemas = document["components"]["schemas"]
    schemas["OrganizationPatch"]["properties"]["name"]["default"] = ""
    schemas["OrganizationPage"]["required"].remove("next")
    post = document["paths"]["/organizations"]["post"]
    post["parameters"] = [p for p in post["parameters"] if p["name"] != "Idempotency-Key"]
    with workplace(tmp_path, openapi_packages) as place:
        found = compiled(place, document)
    for expected in ("Property 'name' is missing", "string | null | undefined", "Idempotency-Key"):
        assert expected in found, found
