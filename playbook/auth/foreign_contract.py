# %% [markdown]
"""
# A foreign contract

Put another backend under a front end that you cannot change. Record the old one, and
prove that the new one answers the same.

| | |
|---|---|
| **Use it when** | clients stay as they are, and the server must be replaced |
| **You need** | [sessions](sessions.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | contract test, record and replay, golden master, masking |
| **Standard** | RFC 9110; RFC 6265 (cookies) |

```python
from playbook.auth.foreign_contract import Known, mask, record, replay

raw = record(old_client, story)  # once
recording = mask(raw, FORMS, unnamed={"TIME"})
found = replay(client, recording, Known(FORMS), {})  # in each run of the tests
```

*Lift: 114 lines in 1 file; needs httpx.*

## See it break

A front end shows when a session ends. It was written for a server in TypeScript. Its
library takes the digits behind the point for milliseconds, however many there are. So
`09:00:00.700Z` is 700 milliseconds after nine.

The new server is written in Python. Three colleagues improve it. One writes times with
`isoformat()`. One renames `name` to `full_name`. One answers 401 when nobody is signed
in, as an API should.

The folded cell defines `server(...)`, the old server and each new one, and
`story(client)`: it asks who is signed in, signs in twice, asks again, signs out, and
asks a last time. `front_end(app)` runs it; it returns the status codes and what the
person sees. `CHANGES` has the changes, `FORMS` what [tokens](../glossary.md#token), ids
and times look like, `DETAIL` the body of the 401. The cell also imports `show`,
`table`, `serving`, `on_postgres` and `lesson_url`. What does the person see after each
change, and which does a test of status codes notice?
"""

# %% tags=["stage"]
from datetime import datetime, timedelta

from playbook.exercises.auth.foreign_contract import FORMS, server, story
from playbook.kit.lesson import data_path, lesson_url, on_postgres, serving, show, table

DETAIL = {"detail": "Unauthorized"}
CHANGES = {
    "none": {},
    "isoformat()": {"times": datetime.isoformat},
    "full_name": {"member": "full_name"},
    "401 for nobody": {"nobody": 401},
}


def date_of(text):
    seconds, _, digits = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    return datetime.fromisoformat(seconds) + timedelta(milliseconds=int(digits))


def front_end(app):
    with serving(app) as client:
        answers = story(client)
    first, found = answers[0], answers[3].json()
    seen = "sign-in form" if first.is_success else "error page"
    name = found["user"].get("name", "undefined")
    until = date_of(found["expiresAt"]).strftime("%H:%M:%S")
    return [answer.status_code for answer in answers], seen, name, until


# %% tags=["predict"]
rows = [[change, *front_end(server(**options))] for change, options in CHANGES.items()]
show(table(rows, ["change", "status codes", "at first", "name", "until"]))

# %% [markdown]
"""
Microseconds make the session end eleven minutes late, without any error. Each change is
right by itself. A test of status codes notices one of the three, and the tests of the
front end run against a copy of the old server.

## The decision

How does a front end keep working on another backend?

| option | good | costs |
|---|---|---|
| change the front end | the API as we like it | every screen, every installed app |
| keep the old server beside the new one | exact | two services write one table |
| read its documentation | quick | it is silent on cookies, orders and errors |
| OpenAPI, Pact | standard tools | form only, not values that belong together |
| **record and replay** | a file has the answer | promises only what was recorded |

We choose **record and replay**. Choose the old server when you need its plugins. Choose
OpenAPI when you write both sides.

## Build it

### The idea

1. **Record** what the old server answers.
2. **Mask** what was made by chance: tokens, ids, times.
3. **Replay** the requests against the new server and compare the answers.
4. **Deviations**: write down each difference that you want, and why.

### Record

An exchange is a request and its answer. Headers that say nothing about the contract are
left out:
"""

# %% tags=["export"]
import json
from contextlib import suppress
from typing import Any

import httpx

Exchange = dict[str, Any]
SENT = {"authorization", "content-type", "cookie", "origin"}
TRANSPORT = {"connection", "content-length", "date", "server", "x-request-id"}


def response_of(answer: httpx.Response) -> Exchange:
    """What is compared: status, headers as lines, the body, parsed if it is JSON."""
    pairs = answer.headers.multi_items()
    lines = [f"{name}: {text}" for name, text in pairs if name not in TRANSPORT]
    body: Any = answer.read().decode(errors="backslashreplace")  # a picture, too
    with suppress(ValueError):
        body = json.loads(body)
    return {"status": answer.status_code, "headers": lines, "body": body}


# %%
with serving(server()) as client:
    print(response_of(client.get("/session")))

# %% [markdown]
"""
`record` notes whatever a function asks, so any script or test can be recorded:
"""

# %% tags=["export"]
from collections.abc import Callable


def record(
    client: httpx.Client, story: Callable[[httpx.Client], object]
) -> list[Exchange]:
    """Everything that `story(client)` asks, and what it is answered."""
    exchanges: list[Exchange] = []

    def note(answer: httpx.Response) -> None:
        asked, path = answer.request, answer.request.url.raw_path.decode()
        request: Exchange = {"method": asked.method, "url": path}
        request["headers"] = {n: t for n, t in asked.headers.items() if n in SENT}
        request["content"] = asked.read().decode()
        exchange = {"request": request, "response": response_of(answer)}
        exchanges.append({"label": f"{len(exchanges) + 1} {path}"} | exchange)

    client.event_hooks["response"].append(note)
    story(client)
    client.event_hooks["response"].remove(note)
    return exchanges


# %%
with serving(server()) as client:
    raw = record(client, story)
print([exchange["label"] for exchange in raw])

# %% [markdown]
"""
### Mask

A recording is full of real tokens and may not be committed. Each value that was made by
chance becomes a **placeholder**: `<TOKEN:1>` is the same token wherever it stands, in
answers and in later requests. Two times can be equal by chance, so a time has no
number.
"""

# %% tags=["export"]
import re
from collections.abc import Collection, Iterator, Mapping


def mask(
    raw: list[Exchange], forms: Mapping[str, str], unnamed: Collection[str] = ()
) -> list[Exchange]:
    """`raw` with placeholders. `forms` has a regular expression for each kind."""
    names: dict[str, str] = {}

    def placeholder(found: re.Match[str]) -> str:
        kind = str(found.lastgroup)
        if kind in unnamed:
            return f"<{kind}>"
        number = 1 + sum(name.startswith(f"<{kind}:") for name in names.values())
        return names.setdefault(found[0], f"<{kind}:{number}>")

    parts = "|".join(f"(?P<{kind}>{form})" for kind, form in forms.items())
    return list(json.loads(re.sub(parts, placeholder, json.dumps(raw))))


# %%
recording = mask(raw, FORMS, unnamed={"TIME"})
print(recording[2]["response"]["body"], recording[3]["request"]["headers"])

# %% [markdown]
"""
### Compare

A placeholder that is met for the first time must have the right form. From then on it
stands for that value. This is called **unification**.
"""

# %% tags=["export"]
from dataclasses import dataclass, field

# <TIME>, <TOKEN:1>, or what a subclass of Known tells apart: <TOKEN:1 of Ada>
PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]*(?:[:# ][^<>]*)?)>")


@dataclass
class Known:
    """Forms of placeholders by kind, without groups; and the values met, by name."""

    forms: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """`text` as it is sent, with the values that were met."""
        return PLACEHOLDER.sub(lambda name: self.values.get(name[1], name[0]), text)

    def form(self, name: str) -> str:
        """What the value of a placeholder looks like. KeyError for an unknown one."""
        kind = re.split("[:# ]", name)[0]
        # A kind alone may be no placeholder at all, but <B> in HTML.
        return self.forms.get(kind) or {kind: f"<{kind}>"}[name]

    def learn(self, name: str, value: str) -> bool:
        """Whether `name` stands for `value`, from now on. Without a number it may."""
        return ":" not in name or self.values.setdefault(name, value) == value


# %%
print(Known(FORMS, {"TOKEN:1": "abc"}).fill("session=<TOKEN:1>"))


# %% tags=["export"]
def match(expected: Any, actual: Any, known: Known) -> bool:
    """Whether `actual` is `expected`. If so, its placeholders are known."""
    if not isinstance(expected, str) or not isinstance(actual, str):
        return type(expected) is type(actual) and bool(expected == actual)
    plain, *parts = PLACEHOLDER.split(expected)
    pattern = re.escape(plain)
    for name, plain in zip(parts[::2], parts[1::2], strict=True):
        pattern += f"({known.form(name)})" + re.escape(plain)
    found = re.fullmatch(pattern, actual)
    if found is None:
        return False
    return all(map(known.learn, parts[::2], found.groups()))


# %%
known = Known({"TOKEN": "[a-z]+"})
print([match("<TOKEN:1>", text, known) for text in ("123", "abc", "abd", "abc")])

# %% [markdown]
"""
Members must be the same. Lists have no order, but nothing to spare. `True` is not 1,
because it is not to a front end.
"""

# %% tags=["export"]
from copy import deepcopy


def unify(expected: Any, actual: Any, known: Known, at: str) -> Iterator[str]:
    """Where `actual` is not what was recorded, in words."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in sorted(expected.keys() ^ actual.keys()):
            yield f"{at}.{name} is {'missing' if name in expected else 'new'}"
        for name in sorted(expected.keys() & actual.keys()):
            yield from unify(expected[name], actual[name], known, f"{at}.{name}")
    elif isinstance(expected, list) and isinstance(actual, list):
        left = list(actual)
        for item in expected:
            like = [one for one in left if not [*unify(item, one, deepcopy(known), at)]]
            if like:
                left.remove(like[0])
                yield from unify(item, like[0], known, at)
            else:
                yield f"{at}: nothing in it is like {item}"
        yield from (f"{at}: {item} is new" for item in left)
    elif not match(expected, actual, known):
        yield f"{at} is {actual!r}, not {expected!r}"


# %%
print(*unify({"a": 1}, {"a": True, "b": 2}, known, "body"))

# %% [markdown]
"""
### Replay

A **deviation** says what the new server answers instead, and why. `replay` also reports
a deviation that has stopped being true, so that the table stays honest.
"""


# %% tags=["export"]
@dataclass(frozen=True)
class Deviation:
    """Why the new server answers otherwise, and the changed members of the response."""

    why: str = ""
    response: Exchange = field(default_factory=dict)


Deviations = Mapping[str, Deviation]


def replay(
    client: httpx.Client, recording: list[Exchange], known: Known, wanted: Deviations
) -> dict[str, list[str]]:
    """By label, where the responses differ. `client` loses its cookies."""
    left = dict(wanted)
    found: dict[str, list[str]] = {}
    for exchange in recording:
        label, response = exchange["label"], exchange["response"]
        client.cookies.clear()
        asked = json.loads(known.fill(json.dumps(exchange["request"])))
        actual = response_of(client.request(**asked, follow_redirects=False))
        as_before = not [*unify(response, actual, deepcopy(known), "answer")]
        deviation = left.pop(label, Deviation())
        lines = [*unify(response | deviation.response, actual, known, "answer")]
        if deviation.why and as_before:
            lines = ["is as recorded: the deviation is not needed"]
        if lines:
            found[label] = lines
    return found | {label: ["no exchange has this label"] for label in left}


# %%
def compare(app, wanted):
    with serving(app) as client:
        return replay(client, recording, Known(FORMS), wanted)


wanted = {"1 /session": Deviation("as an API should", {"status": 401, "body": DETAIL})}
print(compare(server(nobody=401), wanted), compare(server(), wanted), sep="\n")

# %% [markdown]
"""
The first line names the exchange that has no deviation yet. The second one comes from a
server that answers as recorded.

## See it work

Does the recording notice the three changes? And the old server, with other tokens and
ids than on the day of the recording?
"""

# %% tags=["predict"]
noticed = {change: compare(server(**how), {}) for change, how in CHANGES.items()}
for change, found in noticed.items():
    print(f"{change}:", *found or ["as recorded"])

# %% [markdown]
"""
Now a contract that somebody else wrote. Better Auth is an npm package for signing
people in, and Pantry speaks its language. `data/better_auth.json` has 149 exchanges
with a real Better Auth server.

Pantry's module `recorded` adds what is special there to the recipe. Cookies are signed,
so its subclass of `Known` checks the signature in `learn`. The folded cell imports it
and defines `pantry(url)`: the exchanges of six sections, replayed against Pantry on
that database. It returns their number and the differences.
"""

# %% tags=["stage"]
from datetime import UTC

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import Base, make_engine
from playbook.pantry.auth import recorded
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.sessions import Cookies
from playbook.pantry.auth.wire import Auth
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings

SECRET = "a secret of this lesson, of more than 32 characters"


def pantry(url, base="http://pantry.test"):
    rules = {"password_min_length": 8, "password_blocklist": False, "secret": SECRET}
    rules |= {"rate_limits": False, "strict_proof": False, "environment": "test"}
    rules |= {"require_email_verification": False, "base_url": base}
    rules |= {"trusted_origins": (base, "http://app.example"), "database_url": url}
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    clock = FixedClock(datetime(2026, 11, 2, 9, tzinfo=UTC))
    mails = Postbox(MemorySender())
    auth = Auth(Settings(**rules), engine, clock, Identifiers(clock), mails)
    exchanges = json.loads(data_path("better_auth.json").read_text("utf-8"))[
        "exchanges"
    ]
    chosen = [exchange for exchange in exchanges if exchange["section"] <= 6]
    agent = {"user-agent": "curl/7.88.1"}
    with serving(better_auth(auth), headers=agent) as client:
        return len(chosen), recorded.replay(client, chosen, base, Cookies(SECRET))


# %%
here = pantry(lesson_url())
print(here, recorded.DIFFERENCES[3])

# %% [markdown]
"""
None of the 39 answers differs. Pantry's table of deliberate differences has a row and a
reason for each rule of its own. The output shows one of them.

## On PostgreSQL

A contract says nothing about databases. A list without an order in the contract has
another order on another engine, so lists are compared without it.
"""

# %%
there = on_postgres(pantry)
print("the same" if there == here else there)

# %% [markdown]
"""
## Check it
"""

# %%
assert not re.search(FORMS["TOKEN"], json.dumps(recording)), "a token was recorded"
assert [change for change, found in noticed.items() if not found] == ["none"], (
    "a change went unnoticed, or the old server differs from its own recording"
)
assert not match(1, True, known), "True passed for 1"
assert not match("<TOKEN:1>", "another", known), "another token passed for the same"
assert here == (39, {}) and there in (here, None), "Pantry differs"
print("each change is noticed; tokens are masked and compared; Pantry is as recorded")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `names.setdefault(found[0], ` | `str(found[0] + ` | a token was recorded |
| `type(expected) is type(actual) and` | `True and` | True passed for 1 |
| `(name, value) == value` | `(name, value) != ""` | another token passed for the same |

## Your turn

In the new server the cookie holds a secret, and `token` in JSON is only a handle for
it. The recorded server had one value for both, so its recording says `<TOKEN:1>` in
both places, and the new server cannot pass.

Write `split(recording)`. It returns the recording with `<COOKIE:1>` in place of
`<TOKEN:1>` wherever a cookie is set or sent, and the same for each number.
"""


# %% tags=["exercise"]
def split(recording):
    """The recording, with names of their own for the values of cookies."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.foreign_contract import HINTS, check

check(split)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def split(recording):
    def renamed(name, text):
        in_cookie = name in ("cookie", "set-cookie")
        return text.replace("<TOKEN:", "<COOKIE:") if in_cookie else text

    for exchange in recording:
        request, response = exchange["request"], exchange["response"]
        sent, lines = request["headers"], response["headers"]
        request["headers"] = {name: renamed(name, text) for name, text in sent.items()}
        pairs = [line.partition(": ") for line in lines]
        response["headers"] = [
            f"{name}: {renamed(name, text)}" for name, _, text in pairs
        ]
    return recording


assert check(split)

# %% [markdown]
"""
## Take it with you

`playbook lift foreign_contract INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| client | an `httpx.Client`; Starlette's `TestClient` is one |
| story | any function or test that uses the client |
| forms | a regular expression for each kind of value that was made by chance |
| signatures | a subclass of `Known` with its own `learn` |
| state | replays against an empty database, in the recorded order |

```python
FORMS = {"ID": "ord_[a-z0-9]{12}", "TIME": "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"}
DEVIATIONS = {"3 /orders/gone": Deviation("we say why", {"body": {"detail": "gone"}})}


def keep(old_client):
    raw = record(old_client, place_and_read)
    recording = mask(raw, FORMS, unnamed={"TIME"})
    Path("old_shop.json").write_text(json.dumps(recording, indent=1))


def test_the_new_shop_answers_as_the_old_one(client):
    recording = json.loads(Path("old_shop.json").read_text())
    assert replay(client, recording, Known(FORMS), DEVIATIONS) == {}
```

Traps:

- **Words.** A library's message changes with its version. Mask it, keep its code.
- **New forms.** If your ids look different, give `Known` your forms: a placeholder has
  the form of the server that answers.
- **Passwords.** What the story types in is recorded as it is. Use invented people.
- **Addresses.** A server that writes its own address into `Location` needs a kind for
  it, such as `"HOST": "https?://[a-z0-9.:]+"`.
- **Uploads.** A request whose body is not text is not recorded: it raises.
- **Mails.** Links in mails are part of the contract. Record them as well.

Hand it over:

- **Front end**: run the real client against the new server, for every call it has.
- **Security**: search the recording for secrets before it is committed.
- **Reviewer**: accept no deviation without a reason.
- **Operations**: compare again when the old product has a new version.

## In short

You can explain why a test of status codes does not protect a front end. You know what
unification compares that a template cannot. You can defend each deviation.

## Sources

RFC 9110. RFC 6265. M. Feathers, *Working Effectively with Legacy Code*,
"Characterization Tests". Better Auth 1.7, recorded with curl.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Second factor](second_factor.ipynb) · [course map](../index.ipynb) · Next: [Performance](../production/performance.ipynb)
"""
