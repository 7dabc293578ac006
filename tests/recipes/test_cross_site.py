"""No other origin acts with the cookie or signs anybody in; no redirect leads away. Needs pytest and fastapi."""

import re
from itertools import product
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.datastructures import Headers
from starlette.websockets import WebSocketDisconnect

from playbook.auth.cross_site import (
    SAFE,
    RefuseForged,
    forgery_fault,
    location,
    origin_of,
    sender_fault,
    trusted_redirect,
)

OURS, APP, EVIL = "https://shop.example", "https://app.example:8443", "https://evil.example"
BLOG = "https://blog.shop.example"
TRUSTED = [OURS, APP]


def fault(**headers: str) -> str | None:
    return sender_fault(Headers({name.replace("_", "-"): value for name, value in headers.items()}), TRUSTED)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": OURS}, {"origin": APP}, {"origin": "HTTPS://SHOP.EXAMPLE:443"}, {"origin": f"{OURS}/a/path"},
        {"referer": f"{OURS}/packages?q=1"}, {"origin": "", "referer": f"{OURS}/"},
        {"origin": "null", "sec_fetch_site": "same-origin"},
    ],
)  # fmt: skip
def test_a_page_of_ours(headers: dict[str, str]) -> None:
    assert fault(**headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"origin": "null"}, {"origin": "null", "referer": f"{OURS}/"}, {"sec_fetch_site": "same-origin"},
        {"origin": "null", "sec_fetch_site": "same-site"}, {"origin": "null", "sec_fetch_site": "cross-site"},
    ],
)  # fmt: skip
def test_a_page_that_does_not_say_where_it_is(headers: dict[str, str]) -> None:
    assert fault(**headers) == "no origin"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL}, {"origin": EVIL, "referer": f"{OURS}/"}, {"origin": EVIL, "sec_fetch_site": "same-origin"},
        {"referer": f"{EVIL}/?{OURS}"}, {"origin": BLOG}, {"origin": "https://example"},
        {"origin": "http://shop.example"}, {"origin": "https://shop.example:444"}, {"origin": "https://app.example"},
        {"origin": "https://shop.example.evil.example"}, {"origin": "https://evilshop.example"},
        {"origin": "https://shop.example@evil.example"}, {"origin": "/"}, {"origin": "*"}, {"origin": "file://"},
        {"origin": "Null", "sec_fetch_site": "same-origin"},
    ],
)  # fmt: skip
def test_a_page_of_somebody_else(headers: dict[str, str]) -> None:
    assert fault(**headers) == "another origin"


def test_two_origins_are_the_origin_of_nobody() -> None:
    for first, second in ((OURS, EVIL), (EVIL, OURS), (OURS, OURS)):
        raw = [(b"origin", first.encode()), (b"origin", second.encode())]
        assert sender_fault(Headers(raw=raw), TRUSTED) == "another origin"


def test_a_program_passes_and_what_looks_like_a_browser_must_say_where_it_is() -> None:
    assert forgery_fault(Headers({"user-agent": "curl/8", "authorization": "Bearer x"}), TRUSTED) is None
    assert forgery_fault(Headers({"origin": "", "sec-fetch-site": " "}), TRUSTED) is None
    for name in ("cookie", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"):
        assert forgery_fault(Headers({name: "cors"}), TRUSTED) == "no origin"
        assert forgery_fault(Headers({name: "cors", "origin": APP}), TRUSTED) is None
        assert forgery_fault(Headers({name: "cors", "origin": BLOG}), TRUSTED) == "another origin"


# ---------------------------------------------------------------- an application


def same_site_only(request: Request) -> None:
    if request.method not in SAFE:
        fault = forgery_fault(request.headers, TRUSTED)
        if fault:
            raise HTTPException(403, fault)


def application(guard: str) -> tuple[FastAPI, list[str]]:
    """A service with every method and a WebSocket, and what reached its routes."""
    app = FastAPI(dependencies=[Depends(same_site_only)] if guard == "dependency" else [])
    reached: list[str] = []
    if guard == "middleware":
        app.add_middleware(RefuseForged, trusted=["HTTPS://shop.example:443", APP])

    @app.api_route("/orders", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
    def orders(request: Request) -> None:
        reached.append(request.method)

    if guard == "middleware":

        @app.websocket("/live")
        async def live(websocket: WebSocket) -> None:
            reached.append("WebSocket")
            await websocket.accept()
            await websocket.close()

    return app, reached


@pytest.mark.parametrize("guard", ["middleware", "dependency"])
def test_only_what_changes_something_is_asked_for_its_origin(guard: str) -> None:
    app, reached = application(guard)
    with TestClient(app) as client:
        for method, origin in product(("GET", "HEAD", "OPTIONS"), (EVIL, BLOG, "null")):
            answer = client.request(method, "/orders", headers={"origin": origin, "cookie": "session=x"})
            assert answer.status_code == 200
        reached.clear()
        for method, origin in product(("POST", "PUT", "PATCH", "DELETE"), (EVIL, BLOG, "null", "")):
            answer = client.request(method, "/orders", headers={"origin": origin, "cookie": "session=x"})
            assert answer.status_code == 403
        assert reached == []
        for origin in TRUSTED:
            assert client.post("/orders", headers={"origin": origin, "cookie": "session=x"}).status_code == 200
        assert client.post("/orders").status_code == 200, "a program"


def test_a_websocket_of_another_site_is_refused() -> None:
    app, reached = application("middleware")
    with TestClient(app) as client:
        for origin in (EVIL, BLOG):
            refused = client.websocket_connect("/live", headers={"origin": origin, "cookie": "session=x"})
            with pytest.raises(WebSocketDisconnect), refused:
                pass
        assert reached == []
        with client.websocket_connect("/live", headers={"origin": OURS, "cookie": "session=x"}):
            assert reached == ["WebSocket"]


@pytest.mark.parametrize("trusted", ["*", "shop.example", "https://shop.example/", "https://*.shop.example", "null"])
def test_what_is_no_origin_is_not_trusted(trusted: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        RefuseForged(FastAPI(), [trusted])


@pytest.mark.parametrize("trusted", [[""], [OURS, ""], "https://shop.example", ["shop.example"]])
def test_a_wrong_list_trusts_nobody(trusted: list[str]) -> None:
    """An empty text is not the origin of a URL without one, and `in` finds a part of a text."""
    for url in ("javascript:alert(1)", "https://shop.exam", "", "data:text/html,x"):
        with pytest.raises(ValueError, match="origin"):
            trusted_redirect(url, trusted)
    for origin in ("garbage", "https://shop.exam", EVIL):
        with pytest.raises(ValueError, match="origin"):
            forgery_fault(Headers({"origin": origin}), trusted)


def test_an_origin_on_the_list_may_be_written_in_another_way() -> None:
    assert trusted_redirect(f"{OURS}/x", ["HTTPS://Shop.example:443"])
    assert forgery_fault(Headers({"origin": OURS}), ["HTTPS://Shop.example:443"]) is None


# ---------------------------------------------------------------- where to

ACCEPTED = [
    "/", "/ok", "/a b", "/ä", "/€", "/@evil.example", "/a?x=%2f", "/a?u=https://evil.example/", "/a#//", "/a/../b",
    "/.", "/..//evil.example", "/javascript:alert(1)", "/%2e%2e/", "/a:b", OURS, f"{OURS}/", f"{OURS}/x?y#z",
    f"{OURS}?next=/", f"{OURS}#@evil.example", "HTTPS://SHOP.example:443/x", "https://shop.example:0443/",
    f"{APP}/x", f"{OURS}//x",
]  # fmt: skip
REFUSED = [
    "", " ", "relative", "../x", "?x", "#x", ".", " /x", "//", "//evil.example", "///evil.example", "/\\evil.example",
    "\\\\evil.example", "\\/evil.example", "/a\\b", "/\tx", "/\t/evil.example", "/\n/evil.example",
    "\n//evil.example", "/\r\nSet-Cookie: a=b", "/\0", "/\x7f", "/\x85", "/%2fevil.example", "/%2Fx", "/%5cx",
    "/a%5Cb", "/x/%2f", "javascript:alert(1)", "JavaScript:alert(1)", "java\tscript:alert(1)", "data:text/html,x",
    "vbscript:x", "file:///x", "ftp://shop.example", "blob:https://shop.example/x", "mailto:a@shop.example",
    "https:", "https:/", "https://", "https:evil.example", "https:/evil.example", "https:///evil.example",
    "https:\\\\evil.example", "https:shop.example", "http://shop.example", "https://shop.example:444",
    "https://shop.example:", "https://shop.example:99999", "https://shop.example.",
    "https://shop.example.evil.example", "https://evilshop.example", "https://example", BLOG,
    "https://shop.example@evil.example", "https://shop.example:443@evil.example", "https://user@shop.example",
    "https://evil.example\\@shop.example", "https://shop.example\\@evil.example", "https://shop.example\\.evil.example",
    "https://shop.example%2eevil.example", "https://shop%2eexample", "https://*.example",
    "https://evil.example#@shop.example", "https://evil.example/shop.example", "https://evil\u3002example",
    "https://shop\u3002example", "https://\uff53hop.example", "https://sh\xadop.example", "https://shop.e\u212aample",
    "https://shop.example /x", "https://shop.example\u2028/x", " https://shop.example", "https://shop.example\t/x",
    "https://[shop.example]", "https://[::1]", "https://,shop.example", "//shop.example",
    "https:// shop.example", "https://:@shop.example", "https://evil.example?@shop.example",
    "https://evil.example\\.shop.example", "https://sho%70.example", "https://shop.example\n.evil.example",
    "https://shop.example,evil.example", "https://shop.example;@evil.example",
]  # fmt: skip


@pytest.mark.parametrize("url", ACCEPTED)
def test_a_path_of_ours_or_a_trusted_origin(url: str) -> None:
    assert trusted_redirect(url, TRUSTED)


@pytest.mark.parametrize("url", REFUSED)
def test_everything_else_is_refused(url: str) -> None:
    assert not trusted_redirect(url, TRUSTED)


def leads_away(url: str) -> bool:
    """Whether a browser would leave the site, by the rules of WHATWG URL for what has no host of ours in it."""
    read = url.strip("".join(map(chr, range(0x21)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")
    return read.startswith("//") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", read) is not None


def test_no_short_text_that_is_accepted_leads_away() -> None:
    short = ("".join(characters) for length in range(6) for characters in product("/\\\t\n :@?#.h", repeat=length))
    accepted = [url for url in short if trusted_redirect(url, TRUSTED)]
    assert len(accepted) > 1000
    assert not [url for url in accepted if leads_away(url)]


def test_an_origin_is_written_as_browsers_do() -> None:
    assert origin_of("HTTP://Localhost:80/x?y#z") == "http://localhost"
    assert origin_of("http://[::1]:3000/") == "http://[::1]:3000"
    for url in ("", "null", "/x", "https://a:0", "https://a:65536", "https://u@a", "https://a b", "//a", "x:https://a"):
        assert origin_of(url) == "", url


@pytest.mark.parametrize("url", ["/€", "/ä?ö#ü", "/a b", "/%41?x=%2f", "/\U0001f40d"])
def test_a_location_is_ascii_and_encoded_once(url: str) -> None:
    written: Any = location(url)
    assert re.fullmatch(r"[ -~]*", written)
    assert location(written) == written
    assert trusted_redirect(written, TRUSTED)
