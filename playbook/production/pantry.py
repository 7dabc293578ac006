# %% [markdown]
"""
# Pantry

Find your way in a finished service: follow one request from the socket to the row and
back, and see where each wrong request ends.

| | |
|---|---|
| **Use it when** | you read a service that others wrote, or assemble one from parts |
| **You need** | [resources](../api/resources.ipynb) (*background*) |
| **Time** | read 23 min, exercise 20 min |
| **Topics** | architecture, assembly, composition root, middleware, ASGI, layers |
| **Standard** | ASGI 3.0; The Twelve-Factor App, VI and IX; OWASP ASVS 5.0, 8.2 |

Pantry is the service that uses the recipes of this course. Its code is in the folder
`playbook/pantry`, in plain modules. Read it beside this page, from `app.py` down.

## See it break

Pantry keeps two contracts. Its resources, such as `/packages`, answer errors as
[problem details](../glossary.md#problem-details) (RFC 9457) and refuse what they do not
know. Under `/api/auth` it answers as Better Auth does, a sign-in library with a front
end that exists already. That front end looks for the member `code` of an error. These
are four of its requests:

| request | Better Auth answers |
|---|---|
| sign in with a wrong password | 401 `INVALID_EMAIL_OR_PASSWORD` |
| rename Ada, with a field `theme` of its own | 200 |
| ask who is signed in, with a parameter that skips a cache | 200 |
| change the password, with an `Idempotency-Key` that a library adds | 200 |

The simplest assembly is one application with the routes of both. Each **middleware**, a
layer around all routes, then sees all requests.

The folded cell imports `one_app`, which assembles it so, and `pantry_at`, the real
service. `four_requests` sends the four, and gives status and `code` of each answer. The
others are used later: `AT_HOME`, `ADA`, `ask`, `own_layers`, `who_sends`, and the
helpers `lesson_url`, `on_postgres`, `serving`, `show`, `table`.
"""

# %% tags=["stage"]
from playbook.exercises.production.pantry import (
    ADA,
    AT_HOME,
    ask,
    four_requests,
    one_app,
    own_layers,
    pantry_at,
    who_sends,
)
from playbook.kit.lesson import (
    lesson_url,
    on_postgres,
    serving,
    show,
    table,
)

# %% [markdown]
"""
Predict: which of the four does the one application answer as Better Auth would?
"""

# %% tags=["predict"]
requests = ["wrong password", "field of its own", "parameter", "key"]
naive = four_requests(one_app(lesson_url()))
show(table(zip(requests, naive, strict=True), ["request", "one application"]))

# %% [markdown]
"""
Three layers did their duty. One wrote the error anew as a problem, which has no `code`.
One refused a parameter that it did not know. One keeps answers for retries; it found a
session's cookie in the answer, and refused to store it. That was a 500, and the
password is changed all the same. The field passed because no layer knows fields: the
model of each route does. Each layer can be taught an exception. The next layer that
somebody writes will not have it.

## The decision

**How do two contracts live at one address?**

| option | good | costs |
|---|---|---|
| one application | one list of routes | each layer must know both contracts |
| `app.mount`, as FastAPI has it | built in | the outer layers see everything |
| Django's `include` | built in | its middleware sees everything |
| two services behind a [proxy](../glossary.md#proxy) | deployed apart | two of everything to run |
| **two applications in one process** | no layer sees both | a joined start and stop |

We choose **two applications in one process**. The first segments of the path decide,
before the layers of either. Choose two services when two teams deploy them.

## See it work
"""

# %%
real = four_requests(pantry_at(lesson_url()))
show(table(zip(requests, real, strict=True), ["request", "Pantry"]))

# %% [markdown]
"""
### The layers

An [ASGI](../glossary.md#asynchronous-server-gateway-interface) application is a
function of three arguments: `scope` describes the request, `receive` gives its body
piece by piece, `send` takes the answer piece by piece. A **layer** is such an
application that has another one inside. `own_layers` asks the running service for its
layers, from the outside:
"""

# %%
app = pantry_at(lesson_url(file=True))
show(table(own_layers(app), ["layer", "module"]))

# %% [markdown]
"""
`Handover` gives requests under `/api/auth` to the other application. All others go on
inward. The layers above it in the table serve both contracts: security headers, the
format of the path, limits, the session. `QuickWay` takes what is asked most straight
to its route. The layers below `Handover` serve the resources only. Some layers are
recipes: their module begins with the name of a track. FastAPI and Starlette have layers
too, which the table leaves out.

### One request

Ada signs up and makes an organization. She reads it, and gets its **tag** (`ETag`): a
hash of what she has read.
"""

# %%
with serving(app) as client:
    ask(client, "/sign-up/email", ADA | {"name": "Ada"})
    acme = {"slug": "acme", "name": "Acme"}
    made = client.post("/organizations", json=acme, headers=AT_HOME)
    tag = client.get("/organizations/acme").headers["etag"]
    cookie = client.build_request("GET", "/").headers["cookie"]
print(made.status_code, made.headers["location"], tag)

# %% [markdown]
"""
Now she renames it with PATCH. `steps` begins with a request in which everything is
wrong, and mends one thing at a time. The service names one mistake at a time: the first
one that it meets. Who asks is looked up early, by a statement of its own. Everything
else happens in a **transaction**, which is committed as a whole: `who_sends` collects
its statements.
"""

# %%
TWICE = '{"name": "Acme", "name": "Acme Ltd", "colour": "red"}'
steps = [
    ("nothing", {"content-type": "text/xml", "origin": "https://mallory.example"}),
    ("the cookie", {"cookie": cookie}),
    ("the page it comes from", AT_HOME),
    ("the type of the body", {"content-type": "application/merge-patch+json"}),
    ("a name twice", {"body": '{"name": "Acme Ltd", "colour": "red"}'}),
    ("an unknown field", {"body": '{"name": "Acme Ltd"}'}),
    ("no tag of what is changed", {"if-match": '"what-she-read-last-week"'}),
    ("an old tag", {"if-match": tag}),
]


def mended_step_by_step(client):
    sent = {"body": TWICE}
    for mended, change in steps:
        sent |= change
        headers = {name: value for name, value in sent.items() if name != "body"}
        with who_sends(app.state.engine) as statements:
            answer = client.patch(
                "/organizations/acme", content=sent["body"], headers=headers
            )
        title = answer.json().get("title", answer.json().get("name"))
        yield mended, answer.status_code, title, statements


# %% [markdown]
"""
Predict: how many of the eight requests get as far as the transaction? Which is refused
first, the wrong type of the body or the foreign page?
"""

# %% tags=["predict"]
with serving(app) as client:
    walk = list(mended_step_by_step(client))
rows = [(*step[:3], len(step[3])) for step in walk]
show(table(rows, ["mended", "status", "what the answer says", "statements"]))

# %% [markdown]
"""
The order is a decision. Who asks comes before what is asked, so a stranger learns
nothing about bodies and rows. After that, a check that costs nothing comes before one
that asks the database. The missing tag is an exception: a client should first hear that
there is no such row, with 404, so the row is read.

### From the route to the row

Now the last request, the one that works. The table above counted three statements of
its transaction. Predict: what do they ask, and in which order?
"""

# %% tags=["predict"]
columns = ["transaction", "sent by", "statement"]
show(table(walk[-1][3], columns))

# %% [markdown]
"""
Suppose that another request changes the row meanwhile. Then the database refuses this
commit, and `transact` runs all of it again. So Ada's role and the tag are never older
than the change, and the client hears [412](../glossary.md#precondition-failed).

The answer leaves after the commit, and each layer adds its own on the way out: a
[request id](../glossary.md#request-id), a renewed cookie, security headers, and a line
in the log.

### Where the next thing goes

| new | goes to |
|---|---|
| a resource | a module beside `organizations.py`; its router in `app.resource_api` |
| a sign-in flow | a module in `auth/`; its router in `auth/better_auth.py` |
| a table | a [revision](../glossary.md#revision) in `revisions/`; its model beside the code that uses it |
| a setting | `settings.Fields`, with a default that is safe or refused in production |
| a layer | inside of one part; around both only if both contracts allow it |

## On PostgreSQL

In production several processes serve Pantry. What one of them must know of the others
is in the database. Ada signs up at the first server. `two_servers` returns whom the
second one then sees, and, when she has signed out there, whom the first one sees. There
the [event loop](../glossary.md#event-loop) itself asks the database who sends a
request, without a thread.
"""


# %%
def two_servers(url):
    with serving(pantry_at(url)) as first, serving(pantry_at(url)) as second:
        ask(first, "/sign-up/email", ADA | {"name": "Ada"})
        second.cookies.update(first.cookies)
        known = second.get("/api/auth/get-session").json()["user"]["email"]
        ask(second, "/sign-out", {})
        after = first.get("/api/auth/get-session").json()
    return known, after


shared = on_postgres(two_servers)
print(shared)

# %% [markdown]
"""
## Check it

`rows_holding` counts the rows that hold a text, in all tables. It must find the name
that Ada has given. It must not find the **[token](../glossary.md#token)** of her
cookie, which proves who she is: Pantry stores its hash only, so a stolen database signs
nobody in.
"""

# %%
import sqlalchemy as sa


def rows_holding(engine, text):
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as db:
        found = [db.execute(sa.select(each)).all() for each in metadata.tables.values()]
    return sum(text in str(row) for rows in found for row in rows)


token = cookie.split("=")[1].split(".")[0]
print("name:", rows_holding(app.state.engine, "Acme Ltd"), "| token:", end=" ")
print(rows_holding(app.state.engine, token))

# %%
due = ["401 INVALID_EMAIL_OR_PASSWORD", "200", "200", "200"]
assert real == due, "the front end does not get what it expects"
assert naive != due, "one application would do"
statuses = [status for _, status, _, _ in walk]
assert statuses == [401, 403, 415, 400, 422, 428, 412, 200], "the order has changed"
writers = [number for number, _, sql in walk[-1][3] if not sql.startswith("SELECT")]
assert writers == [walk[-1][3][-1][0]], "a question writes, or the work does not"
assert rows_holding(app.state.engine, token) == 0, "the database holds a live token"
if shared:
    assert shared == ("ada@example.com", None), "the servers disagree"
print("two contracts, eight answers in their order, one writing transaction")

# %% [markdown]
"""
## Your turn

In production a proxy ends TLS and says in `scope["scheme"]` what the client used. Some
clients type `http://` all the same. Write the outermost layer of a service whose base
URL begins with `https:`.

- A GET or HEAD over http is redirected to the same path and query of the base URL. Any
  other request over http is refused: its body has crossed the network in the clear.
- Answers over https say `Strict-Transport-Security` (HSTS), for a year at least and for
  subdomains. Then a browser does not try http again.
- The platform asks `/health` over http from inside, and is answered.
- If the base URL begins with `http:`, as on a developer's machine, nothing changes.
"""


# %% tags=["exercise"]
class OnlyHttps:
    def __init__(self, app, base_url):
        self.app = app
        self.base_url = base_url

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


# %%
from playbook.exercises.production.pantry import HINTS, check

check(OnlyHttps)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse


class OnlyHttps:
    def __init__(self, app, base_url):
        self.app = app
        self.base_url = base_url

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not self.base_url.startswith("https:"):
            await self.app(scope, receive, send)
        elif scope["scheme"] == "https":
            await self.app(scope, receive, self.strict(send))
        elif scope["path"] == "/health":
            await self.app(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            path = scope["raw_path"].decode("latin-1")
            query = scope["query_string"].decode("latin-1")
            url = self.base_url + path + (f"?{query}" if query else "")
            await RedirectResponse(url, 308)(scope, receive, send)
        else:
            await PlainTextResponse("use https", 403)(scope, receive, send)

    def strict(self, send):
        async def send_strict(message):
            if message["type"] == "http.response.start":
                policy = "max-age=31536000; includeSubDomains"
                MutableHeaders(scope=message)["Strict-Transport-Security"] = policy
            await send(message)

        return send_strict


assert check(OnlyHttps)

# %% [markdown]
"""
## In short

A service is a few layers around routes, and each layer must suit every contract that
passes it. The order of its checks decides what a stranger learns and what a refusal
costs. You can say for any request which function asks the database, and in which
transaction.

## Sources

ASGI specification 3.0. OWASP ASVS 5.0, 8.2 (authorization design) and 8.3. RFC 6797
(HSTS), 7.2 and 8.1. The Twelve-Factor App, VI (processes) and IX (disposability). M.
Seemann, *Dependency Injection in .NET*, "Composition Root".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Performance](performance.ipynb) · [course map](../index.ipynb)
"""
