"""`playbook.pantry.limits`: how often a network and an account may ask, on every path, in the form of each part."""

import itertools
import uuid
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from playbook.auth.mail import MemorySender
from playbook.kit.live import serving
from playbook.pantry.app import pantry
from playbook.pantry.limits import PROBES, AccountLimits, Counts, Rate, RequestLimits
from playbook.pantry.memory import OwnMemory
from playbook.pantry.settings import Settings

_numbers = itertools.count(1)
ORIGIN = "http://localhost:8000"
ADA = {"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}
FEW = {"network_rate": 0.001, "account_rate": 1000}  # one request each 1,000 s, and one at once


def app(**settings: Any) -> Any:
    given = {"environment": "test", "database_url": f"duckdb:///:memory:limits_{next(_numbers)}"}
    return pantry(Settings(**given | {"require_email_verification": False} | settings), sender=MemorySender())


def test_a_burst_then_one_after_each_interval() -> None:
    now = [0.0]
    counts = Counts(Rate("network", 2, 5), lambda: now[0])
    assert [counts.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 0.5]
    assert counts.take("a") == 0.5, "a refused request takes nothing"
    assert counts.take("b") == 0, "one network does not use up another's"
    now[0] += 0.5
    assert counts.take("a") == 0
    assert counts.take("a") == 0.5
    now[0] += 1000
    assert [counts.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 0.5], "never more than the burst"


def test_what_is_remembered_is_bounded_and_nobody_is_locked_out_by_many() -> None:
    counts = Counts(Rate("network", 1, 1), lambda: 0.0, OwnMemory(100))
    assert counts.take("ada") == 0
    for number in range(10_000):
        assert counts.take(f"stranger {number}") == 0
        assert len(counts.whole_at) <= 100
    assert counts.take("ada") == 0


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/packages", "application/problem+json"),
        ("/nowhere", "application/problem+json"),
        ("/docs", "application/problem+json"),
        ("/api/auth/ok", "application/json"),
        ("/api/auth/nowhere", "application/json"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_every_path_is_counted_and_refused_in_its_own_form(path: str, form: str, method: str) -> None:
    with serving(app(**FEW)) as client:
        assert client.request(method, path).status_code != 429
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (429, form)
        assert int(answer.headers["retry-after"]) > 900
        assert answer.headers["ratelimit-policy"] == '"network";q=1;w=1000'
        assert answer.headers["ratelimit"].startswith('"network";r=0;t=')
        assert answer.headers["x-request-id"]
        if form.endswith("problem+json"):
            assert answer.json()["type"] == "/problems/too-many-requests"
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        else:
            assert answer.json() == {"message": "Too many requests. Please try again later."}
            assert answer.headers["x-retry-after"] == answer.headers["retry-after"]


def test_probes_have_an_allowance_of_their_own() -> None:
    """Or a stranger behind the same proxy could make the platform restart the service."""
    with serving(app(**FEW)) as client:
        assert [client.get("/packages").status_code for _ in range(2)] == [401, 429]
        assert client.get("/health").status_code == 200
        assert [client.get(path).status_code for path in PROBES] == [429, 429], "and no more than that"


def test_an_ipv6_network_counts_as_one() -> None:
    def key(address: str) -> str:
        return RequestLimits.key_of({"type": "http", "path": "/packages", "client": (address, 1)})

    assert key("2001:db8::1") == key("2001:db8::ffff:ffff:ffff:ffff") != key("2001:db8:0:1::1")
    assert key("192.0.2.1") == key("::ffff:192.0.2.1") != key("192.0.2.2")


def test_an_account_is_counted_wherever_it_asks() -> None:
    with serving(app(account_rate=0.3), headers={"origin": ORIGIN}) as client:
        assert client.post("/api/auth/sign-up/email", json=ADA).status_code == 200
        assert [client.get("/packages").status_code for _ in range(2)] == [200, 200]
        assert client.get("/api/auth/list-sessions").status_code == 200
        answer = client.get("/packages")
        assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-requests")
        assert answer.headers["ratelimit-policy"].startswith('"account";q=3')
        answer = client.get("/api/auth/list-sessions")
        assert (answer.status_code, answer.json()["code"]) == (429, "TOO_MANY_REQUESTS")
        client.cookies.clear()
        assert client.post("/api/auth/sign-up/email", json=ADA | {"email": "bob@example.com"}).status_code == 200
        assert client.get("/packages").status_code == 200, "another account at the same address"


def test_off_means_off() -> None:
    AccountLimits(None).take(uuid.UUID(int=1))
    with serving(app(rate_limits=False, **FEW)) as client:
        assert {client.get("/packages").status_code for _ in range(20)} == {401}


def test_an_account_limit_is_a_problem() -> None:
    limits = AccountLimits(Counts(Rate("account", 1, 1), lambda: 0.0))
    limits.take(uuid.UUID(int=1))
    with pytest.raises(HTTPException) as refused:
        limits.take(uuid.UUID(int=1))
    assert refused.value.status_code == 429


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/packages", {"accept": "a/b," * 300}, 431),
        ("/packages", {"cookie": "a=b;" * 300}, 431),
        ("/packages", {"x-anything": "a" * 9000}, 431),
        ("/packages?" + "limit=1&" * 120, {}, 414),
        ("/packages?cursor=" + "%41" * 1100, {}, 400),
        ("/packages?cursor=" + "a" * 9000, {}, 414),
        ("/packages", {"accept": "application/json," * 150, "cookie": "a=b;" * 150}, 401),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/api/auth"])
def test_a_head_that_is_too_large(prefix: str, path: str, headers: dict[str, str], status: int) -> None:
    with serving(app(rate_limits=False)) as client:
        answer = client.get(prefix + path, headers=headers)
        assert answer.status_code == (404 if prefix and status == 401 else status)
        if answer.content:
            assert ("code" if prefix else "type") in answer.json()
