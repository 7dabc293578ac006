"""Every form of a request target (RFC 9112, 3.2), over raw sockets against the whole service."""

import json
import socket
from collections.abc import Iterator

import pytest

from playbook.auth.mail import MemorySender
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.settings import Settings
from playbook.pantry.target import path_of

ORIGIN = "http://localhost:8000"
ADA = {"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}


@pytest.fixture
def client() -> Iterator[LiveClient]:
    settings = Settings(
        environment="test", database_url="duckdb:///:memory:request_target", require_email_verification=False
    )
    with serving(pantry(settings, sender=MemorySender()), headers={"origin": ORIGIN}) as client:
        yield client


def ask(
    client: LiveClient, method: str, target: str, *lines: str, body: object = None, host: str = "Host: a.example"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to exactly this request line."""
    sent = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {target} HTTP/1.1", host, "Connection: close", *lines]
    head += [f"Content-Length: {len(sent)}", "Content-Type: application/json"] if body is not None else []
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*filter(None, head), "", ""]).encode("latin-1") + sent)
        with connection.makefile("rb") as answer:
            whole = answer.read()
    first, _, rest = whole.partition(b"\r\n")
    fields, _, content = rest.partition(b"\r\n\r\n")
    pairs = [line.split(b": ", 1) for line in fields.split(b"\r\n")]
    return int(first.split()[1]), {name.decode().lower(): value.decode() for name, value in pairs}, content


SAME = [  # absolute-form, and the origin-form that it means
    ("http://a.example/health", "/health"),
    ("HTTP://A.example:80/health", "/health"),
    ("https://a.example/health", "/health"),
    ("http://[::1]:8000/health", "/health"),
    ("http://127.0.0.1/problems/conflict", "/problems/conflict"),
    ("http://a.example/problems/%63onflict", "/problems/conflict"),
    ("http://a.example/organizations?limit=1", "/organizations?limit=1"),
    ("http://a.example/packages/none", "/packages/none"),
    ("http://a.example", "/"),
    ("http://a.example/", "/"),
    ("http://a.example?limit=1", "/?limit=1"),
    ("http://a.example/api/auth/ok", "/api/auth/ok"),
    ("http://a.example/api/auth/get-session", "/api/auth/get-session"),
    ("http://a.example/api/auth/none", "/api/auth/none"),
    ("http://a.example/api/auth", "/api/auth"),
    ("http://a.example//api/auth/ok", "//api/auth/ok"),
]


def test_an_absolute_form_means_its_path_in_both_parts(client: LiveClient) -> None:
    for absolute, path in SAME:
        for method in ("GET", "HEAD"):
            one, other = ask(client, method, absolute), ask(client, method, path)
            drop = ("date", "x-request-id", "content-length")
            alike = [
                (status, {name: value for name, value in headers.items() if name not in drop})
                for status, headers, _ in (one, other)
            ]
            assert alike[0] == alike[1], (method, absolute)
    assert ask(client, "GET", "http://a.example/health")[2] == b'{"status":"alive"}'
    assert json.loads(ask(client, "GET", "http://a.example/api/auth/ok")[2]) == {"ok": True}


def test_the_target_decides_and_not_the_host_header(client: LiveClient) -> None:
    for host in ("Host: b.example", "Host: a.example:99", "Host: "):
        assert ask(client, "GET", "http://a.example/health", host=host)[0] == 200
    assert ask(client, "GET", "http://a.example/health", host="")[0] == 400  # none at all (RFC 9112, 3.2)
    assert ask(client, "GET", "/health", "Host: b.example")[0] == 400  # two


def test_a_person_works_through_absolute_forms(client: LiveClient) -> None:
    base = "http://pantry.example"
    status, headers, _ = ask(client, "POST", f"{base}/api/auth/sign-up/email", f"Origin: {ORIGIN}", body=ADA)
    assert status == 200
    cookie = "Cookie: " + headers["set-cookie"].split(";")[0]
    new = {"slug": "acme", "name": "Acme"}
    status, headers, _ = ask(client, "POST", f"{base}/organizations", cookie, f"Origin: {ORIGIN}", body=new)
    assert (status, headers["location"]) == (201, "/organizations/acme")
    status, headers, content = ask(client, "GET", f"{base}/organizations?limit=1", cookie)
    assert (status, "http" in headers["link"]) == (200, False)
    assert json.loads(content)["items"][0]["slug"] == "acme"


def test_no_form_goes_round_a_guard(client: LiveClient) -> None:
    """The caller, the origin and the limits are asked in every form; what is no path of a part reaches none."""
    new = {"slug": "acme", "name": "Acme"}
    for target in ("/organizations", "http://a.example/organizations", f"{ORIGIN}/organizations"):
        assert ask(client, "POST", target, f"Origin: {ORIGIN}", body=new)[0] == 401
    headers = ask(client, "POST", "/api/auth/sign-up/email", f"Origin: {ORIGIN}", body=ADA)[1]
    cookie = "Cookie: " + headers["set-cookie"].split(";")[0]
    for path, evil in (("/organizations", new), ("/api/auth/sign-out", {}), ("/api/auth/update-user", {"name": "x"})):
        for target in (path, f"http://a.example{path}", f"https://evil.example{path}"):
            status = ask(client, "POST", target, cookie, "Origin: https://evil.example", body=evil)[0]
            assert status == 403, target
    for path in (
        "/api%2Fauth/get-session", "/api%2fauth%2fget-session", "//api/auth/get-session", "/./api/auth/get-session",
        "/x/../api/auth/get-session", "/x/%2e%2e/api/auth/get-session", "/api/auth%2Fget-session",
        "/api/auth/x/../get-session", "/api/auth/%2e%2e/auth/get-session", "/api/./auth/get-session",
        "/organizations/", "/organizations%2Facme", "/organizations/..%2Fhealth", "/packages/../health", "//health",
    ):  # fmt: skip
        for target in (path, f"http://a.example{path}"):
            status, headers, _ = ask(client, "GET", target, cookie)
            assert status == 404, target
            auth = path.startswith("/api/auth/")
            assert headers.get("content-type") == (None if auth else "application/problem+json"), target


def test_the_limit_of_sign_in_counts_every_form() -> None:
    settings = Settings(environment="test", database_url="duckdb:///:memory:target_limits", rate_limits=True)
    path, wrong = "/api/auth/sign-in/email", {"email": "ada@example.com", "password": "wrong words"}
    forms = (
        path,
        f"http://a.example{path}",
        f"https://b.example{path}",
        "/api/auth/sign-in%2Femail",
        "/api/auth/%73ign-in/email",
    )
    with serving(pantry(settings, sender=MemorySender())) as client:
        seen = [ask(client, "POST", target, f"Origin: {ORIGIN}", body=wrong)[0] for target in forms]
    assert seen == [401, 401, 401, 404, 429]


def test_options_of_the_server_as_such(client: LiveClient) -> None:
    for target in ("*", "http://a.example"):
        status, _, content = ask(client, "OPTIONS", target)
        assert (status, content) == (204, b"")
    status, headers, _ = ask(client, "OPTIONS", "http://a.example/organizations")
    assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def test_what_is_no_target_is_400(client: LiveClient) -> None:
    for method, target in (
        ("GET", "*"), ("GET", "health"), ("GET", "a.example:80"), ("CONNECT", "a.example:443"), ("GET", "/health#x"),
        ("GET", "/organizations?limit=1#x"), ("GET", "http://user@a.example/health"), ("GET", "http:///health"),
        ("GET", "http:/health"), ("GET", "ftp://a.example/health"), ("GET", "http://a.example#x"), ("GET", "?limit=1"),
        ("GET", "http://a.example\\/health"), ("OPTIONS", "http://user@a.example"),
    ):  # fmt: skip
        status, headers, content = ask(client, method, target)
        assert (status, headers["content-type"]) == (400, "application/problem+json"), target
        assert json.loads(content)["type"] == "/problems/malformed-request"


def test_an_encoded_slash_stays_one() -> None:
    assert path_of(b"/a%2Fb/%2e%2E/%C3%A9%2f") == "/a%2Fb/../é%2f"
    assert path_of(b"/%252F") == "/%2F"  # a percent sign, then 2F: another name than the encoded slash, and as harmless
