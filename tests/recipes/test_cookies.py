"""What the recipe promises of a cookie, on the wire and as text. Needs pytest, fastapi and httpx, nothing else."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from playbook.auth.cookies import (
    LARGEST,
    AnswerCookies,
    SignedCookie,
    cookie_line,
    cookie_values,
    genuine,
    keep_cookies,
    sign,
    signed,
)

KEY, OLD = b"k" * 32, b"o" * 32
NOW = datetime(2026, 11, 2, tzinfo=UTC)
WEEK = timedelta(days=7)
COOKIE = SignedCookie("__Host-user", [KEY])
VALUES = ("ada", "", "a;b, c=d", "Zoë \U0001f642", 'quo"te\\', "x.y.1", "%41", "\n\x00", " ")


def sent(line: str) -> str:
    """The `Cookie` header of a browser that has taken one `Set-Cookie` line."""
    return line.split(";")[0]


@pytest.mark.parametrize("value", VALUES)
def test_what_was_put_is_read(value: str) -> None:
    line = COOKIE.put(value, NOW, WEEK)
    assert COOKIE.read([sent(line)], NOW) == value
    assert line.isascii()
    assert line.isprintable()
    assert line.count(";") == 5


@pytest.mark.parametrize("value", ["ada", "Zoë"])
def test_each_changed_character_is_noticed(value: str) -> None:
    name, _, good = sent(COOKIE.put(value, NOW, WEEK)).partition("=")
    for place, character in enumerate(good):
        forged = good[:place] + ("A" if character != "A" else "B") + good[place + 1 :]
        assert COOKIE.read([f"{name}={forged}"], NOW) is None, place
    for forged in ("", ".", "..", good[:-1], good + "=", good.rpartition(".")[0], f".{good}", "\xff"):
        assert COOKIE.read([f"{name}={forged}"], NOW) is None, forged


def test_the_end_is_signed() -> None:
    line = sent(COOKIE.put("ada", NOW, WEEK))
    assert COOKIE.read([line], NOW + WEEK - timedelta(seconds=1)) == "ada"
    assert COOKIE.read([line], NOW + WEEK) is None


def test_it_is_good_for_its_name_only() -> None:
    other = SignedCookie("__Host-theme", [KEY])
    line = sent(other.put("ada", NOW, WEEK))
    assert COOKIE.read([line.replace("theme", "user")], NOW) is None
    assert genuine([KEY], "b", signed(KEY, "a", "t")) is None


def test_a_key_can_be_replaced() -> None:
    before = SignedCookie("__Host-user", [OLD])
    after = SignedCookie("__Host-user", [KEY, OLD])
    line = sent(before.put("ada", NOW, WEEK))
    assert after.read([line], NOW) == "ada"
    assert COOKIE.read([line], NOW) is None
    assert before.read([sent(after.put("ada", NOW, WEEK))], NOW) is None


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        sign(b"k" * 31, "text")


def test_one_of_two_is_not_ours() -> None:
    mine, hers = (sent(COOKIE.put(name, NOW, WEEK)) for name in ("ada", "mallory"))
    assert COOKIE.read([f"{mine}; {hers}"], NOW) is None
    assert COOKIE.read([mine, hers], NOW) is None
    assert COOKIE.read([f"theme=dark; {mine}", "x=y"], NOW) == "ada"
    assert COOKIE.read([], NOW) is None


def test_values_are_found_in_any_line_and_order() -> None:
    chance = random.Random(1)
    for _ in range(200):
        pairs = [(chance.choice("abc"), str(number)) for number in range(chance.randrange(6))]
        cut = chance.randrange(len(pairs) + 1)
        lines = [chance.choice(["; ", ";"]).join(f"{k}={v}" for k, v in part) for part in (pairs[:cut], pairs[cut:])]
        assert cookie_values(lines, "a") == [value for name, value in pairs if name == "a"]
    assert cookie_values(["a", "=", "a=b=c", "xa=1", ";;"], "a") == ["", "b=c"]
    assert cookie_values([" \ta=1 ;\ta=2"], "a") == ["1", "2"]


@pytest.mark.parametrize("space", ["\xa0", "\x85", "\x1c", "\x0b"])
def test_a_name_is_ours_only_if_a_browser_reads_it_so(space: str) -> None:
    """A subdomain may plant this name: for a browser it does not begin with `__Host-`."""
    line = sent(COOKIE.put("mallory", NOW, WEEK))
    assert COOKIE.read([f"{space}{line}"], NOW) is None
    assert COOKIE.read([f"x=y; {space}{line}"], NOW) is None


def test_the_line_has_every_attribute() -> None:
    assert COOKIE.put("ada", NOW, WEEK).split("; ")[1:] == [
        "Max-Age=604800", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"
    ]  # fmt: skip
    assert cookie_line("user", "ada", secure=False) == "user=ada; Path=/; HttpOnly; SameSite=Lax"
    assert SignedCookie("user", [KEY], secure=False).put("ada", NOW, WEEK).count("Secure") == 0


def test_max_age_is_never_more_than_what_is_left() -> None:
    assert "Max-Age=1;" in COOKIE.put("ada", NOW, timedelta(seconds=1, microseconds=999_999))


def test_a_cookie_that_browsers_drop_is_refused() -> None:
    name = "user"
    assert cookie_line(name, "x" * (LARGEST - len(name)))
    with pytest.raises(ValueError, match="4096 bytes"):
        cookie_line(name, "x" * (LARGEST - len(name) + 1))


def test_a_prefix_that_browsers_refuse_on_http_is_refused() -> None:
    with pytest.raises(ValueError, match="not Secure"):
        SignedCookie("__Host-user", [KEY], secure=False).put("ada", NOW, WEEK)


# ---------------------------------------------------------------- on any answer


def service() -> FastAPI:
    app = FastAPI()

    def caller(request: Request) -> None:
        keep_cookies(request, ["a=; Max-Age=0", "a=1", "b=1"])

    @app.get("/returned/{status}", dependencies=[Depends(caller)])
    def returned(status: int) -> Response:
        return JSONResponse({}, status)

    @app.get("/raised/{status}", dependencies=[Depends(caller)])
    def raised(status: int) -> None:
        raise HTTPException(status)

    @app.get("/bug", dependencies=[Depends(caller)])
    def bug() -> None:
        raise RuntimeError

    @app.get("/own", dependencies=[Depends(caller)])
    def own(response: Response) -> None:
        response.headers.append("set-cookie", "b=2")
        response.headers.append("set-cookie", "c=2")

    @app.get("/public", dependencies=[Depends(caller)])
    def public(response: Response) -> None:
        response.headers["cache-control"] = "public, max-age=60"

    @app.get("/nothing")
    def nothing() -> None: ...

    @app.get("/deleted")
    def deleted(request: Request) -> None:
        keep_cookies(request, ["a=; Max-Age=0"])

    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(AnswerCookies(service()), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/returned/200", "/returned/404", "/returned/304", "/raised/401", "/raised/503", "/bug", "/public"]
)
def test_it_reaches_the_browser_whatever_the_answer(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=1"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_cookie_of_the_route_wins(client: TestClient) -> None:
    assert client.get("/own").headers.get_list("set-cookie") == ["a=1", "b=2", "c=2"]


def test_without_a_cookie_nothing_is_added(client: TestClient) -> None:
    answer = client.get("/nothing")
    assert "set-cookie" not in answer.headers
    assert "cache-control" not in answer.headers


def test_a_deleted_cookie_is_no_credential(client: TestClient) -> None:
    answer = client.get("/deleted")
    assert answer.headers["set-cookie"] == "a=; Max-Age=0"
    assert "cache-control" not in answer.headers


# ---------------------------------------------------------------- the use that the page shows

app = FastAPI()
key = KEY

theme = SignedCookie("__Host-theme", [key])


@app.post("/theme/{name}")
def choose_theme(name: str, request: Request) -> None:
    keep_cookies(request, [theme.put(name, datetime.now(UTC), timedelta(days=365))])


@app.get("/page")
def page(request: Request) -> dict[str, str]:
    chosen = theme.read(request.headers.getlist("cookie"), datetime.now(UTC))
    return {"theme": chosen or "light"}


def test_a_theme_is_kept_and_cannot_be_edited() -> None:
    with TestClient(AnswerCookies(app), base_url="https://shop.example") as client:
        assert client.get("/page").json() == {"theme": "light"}
        client.post("/theme/dark")
        assert client.get("/page").json() == {"theme": "dark"}
        forged = client.cookies["__Host-theme"].replace("dark", "mine")
        client.cookies.clear()
        answer = client.get("/page", headers={"cookie": f"__Host-theme={forged}"})
        assert answer.json() == {"theme": "light"}
