"""The exercise of the page "Foreign contract": its checker, its hints, wrong answers; and the page's servers."""

import json
import re
import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request, Response

from playbook.auth.foreign_contract import Exchange, Known, mask, record, replay
from playbook.kit.exercises import checker
from playbook.kit.live import LiveClient, serving

HINTS = (
    "Look at a recording: in which headers of requests and answers does a cookie stand?\n"
    "What in the bodies must keep its name?",
    "Only `cookie` and `set-cookie` get the other name. The number stays, since it still\n"
    "says which session it is, and a request must send what an earlier answer has set.",
)

WRONG = (
    # the answers' cookies only: the requests would send the handle
    """
def split(recording):
    for exchange in recording:
        lines = exchange["response"]["headers"]
        exchange["response"]["headers"] = [
            line.replace("<TOKEN:", "<COOKIE:") if line.startswith("set-cookie") else line for line in lines
        ]
    return recording
""",
    # everywhere: that is another name for one value
    """
def split(recording):
    return json.loads(json.dumps(recording).replace("<TOKEN:", "<COOKIE:"))
""",
    # one name for all sessions
    """
def split(recording):
    for exchange in recording:
        asked, answered = exchange["request"], exchange["response"]
        for name in asked["headers"]:
            if name == "cookie":
                asked["headers"][name] = re.sub("<TOKEN:[0-9]+>", "<COOKIE:1>", asked["headers"][name])
        answered["headers"] = [
            re.sub("<TOKEN:[0-9]+>", "<COOKIE:1>", line) if line.startswith("set-cookie") else line
            for line in answered["headers"]
        ]
    return recording
""",
    # the cookies of requests only
    """
def split(recording):
    for exchange in recording:
        headers = exchange["request"]["headers"]
        if "cookie" in headers:
            headers["cookie"] = headers["cookie"].replace("<TOKEN:", "<COOKIE:")
    return recording
""",
    # any value will do: nobody sees that two answers set one cookie
    """
def split(recording):
    for exchange in recording:
        asked, answered = exchange["request"], exchange["response"]
        if "cookie" in asked["headers"]:
            asked["headers"]["cookie"] = asked["headers"]["cookie"].replace("<TOKEN:", "<COOKIE:")
        answered["headers"] = [
            re.sub("<TOKEN:[0-9]+>", "<COOKIE>", line) if line.startswith("set-cookie") else line
            for line in answered["headers"]
        ]
    return recording
""",
)

ENDS = datetime(2026, 11, 9, 9, 0, 0, 700_000, UTC)
FORMS = {
    "TOKEN": r"[A-Za-z0-9_-]{43}",
    "ID": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
}


def in_milliseconds(moment: datetime) -> str:
    """As JavaScript writes a time: `2026-11-09T09:00:00.700Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def server(
    times: Callable[[datetime], str] = in_milliseconds, member: str = "name", nobody: int = 200, two: bool = False
) -> FastAPI:
    """A backend with sessions. `two`: the token in JSON is a handle, and not what the cookie holds."""
    app = FastAPI()
    sessions: dict[str, dict[str, Any]] = {}  # by the cookie's token

    @app.post("/sign-in")
    async def sign_in(request: Request, response: Response) -> dict[str, Any]:
        name = (await request.json())["name"]
        token = secrets.token_urlsafe(32)
        handle = secrets.token_urlsafe(32) if two else token
        user = {"id": str(uuid.uuid4()), member: name}
        sessions[token] = {"handle": handle, "user": user, "expiresAt": times(ENDS + timedelta(minutes=len(sessions)))}
        response.set_cookie("session", token, httponly=True)
        return {"token": handle, "user": user}

    @app.get("/session")
    def read(request: Request, response: Response) -> dict[str, Any] | None:
        session = sessions.get(request.cookies.get("session", ""))
        if session is None:
            if nobody != 200:
                raise HTTPException(nobody)
            return None
        return {"user": session["user"], "expiresAt": session["expiresAt"]}

    @app.post("/end")
    async def end(request: Request) -> dict[str, bool]:
        handle = (await request.json())["token"]
        for token, session in list(sessions.items()):
            if session["handle"] == handle and request.cookies.get("session") in sessions:
                del sessions[token]
        return {"ended": True}

    return app


def story(client: httpx.Client) -> list[httpx.Response]:
    """What a front end does: look, sign in as two people, look again, end a session by its token, look once more."""
    answers = [client.get("/session")]
    answers.append(client.post("/sign-in", json={"name": "Bob"}))
    answers.append(client.post("/sign-in", json={"name": "Ada"}))
    answers.append(client.get("/session"))
    answers.append(client.post("/end", json={"token": answers[2].json()["token"]}))
    answers.append(client.get("/session"))
    return answers


def recorded() -> list[Exchange]:
    """The masked recording of the story with a server whose cookie and token are one."""
    with serving(server()) as client:
        raw = record(client, story)
    return mask(raw, FORMS, unnamed={"TIME"})


def against(app: FastAPI, recording: list[Exchange]) -> dict[str, list[str]]:
    """Where `app` differs from `recording`."""
    client: LiveClient
    with serving(app) as client:
        return replay(client, recording, Known(FORMS | {"COOKIE": FORMS["TOKEN"]}), {})


@checker
def check(split: Callable[[list[Exchange]], list[Exchange]]) -> str:
    """Against a server with two values; against one whose second sign-in sets the first cookie again."""
    before = recorded()
    after = split(json.loads(json.dumps(before)))
    if len(after) != len(before):
        return f"not yet: {len(before)} exchanges were recorded, and {len(after)} came back"
    for label, lines in against(server(two=True), after).items():
        return f"not yet: against a server with two values, exchange {label!r}: {lines[0]}"
    signed_in = [exchange["response"] for exchange in after if exchange["request"]["url"] == "/sign-in"]
    cookies = [line for answer in signed_in for line in answer["headers"] if line.startswith("set-cookie: ")]
    names = [re.findall(r"<[A-Z]+:\d+>", text) for text in cookies]
    if not all(names) or names[0] == names[1]:
        return "not yet: two sign-ins set two cookies, and your recording would accept the same one twice"
    return "right"
