# %% [markdown]
"""
# The Backend Playbook

Build, run and change a real backend, and meet each failure on your own screen before it meets you in production.

The backend is called **Pantry**: a package index that a company runs for itself. People sign up, form organizations
and publish packages; machines upload and install them. Every page builds a recipe, and Pantry uses them all.

New here? Read [Start here](foundations/start_here.ipynb) first. *Where you are*, below, says what comes next.

## What you will be able to do

- **Start** a service that refuses a wrong configuration, stops without losing a request, and can be tested at midnight.
- **Lose no update**: eight threads, a hundred increments each, on an embedded database and on PostgreSQL.
- **Read data before you model it**, and load thousands of real rows with every bad one named by its line.
- **Model** people, sign-in, packages and versions so that a changed name or a second spelling does no harm.
- **Migrate** a database with a script that somebody has read, a test has tried, and no client has noticed.
- **Give** an API the methods and status codes that clients, caches and proxies already understand, and failures one form.
- **Read** a list that changes meanwhile, **edit** without overwriting anybody, **send again** without acting twice.
- **Sign people in** without telling strangers who has an account, and forget them at the next request.
- **Put a backend under a front end** that was written for another one, and prove that nobody notices.
- **Write a decision** so that somebody can question it two years later.

## Ten seconds of Pantry

In JupyterLab, put the cursor into the cell below and press Shift+Enter. It makes a database, loads 14,971 real
packages, starts the service on a free port, sends it two requests over HTTP, and stops it again.
"""

# %%
from datetime import UTC, datetime

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import data_path, lesson_url, serving, show_http
from playbook.pantry.app import mirror_of, resource_api
from playbook.pantry.catalog_file import load_catalog
from playbook.pantry.history import prepare
from playbook.pantry.http import Caller
from playbook.pantry.settings import Settings

settings = Settings(environment="test", database_url=lesson_url())
clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
ids = Identifiers(clock)
engine = make_engine(settings.database_url)
prepare(engine)
mirror, filled = transaction(engine, lambda db: mirror_of(db, clock, ids))
load_catalog(engine, data_path("packages.csv"), mirror, clock.now())

ada = Caller(ids.new(), "Ada")  # she may do everything here; `playbook serve` asks for a session
app = resource_api(engine, settings, clock, ids, lambda request: ada, lambda *asked: True)
with serving(app) as client:
    client.get("/packages/HTTPX")
    yours = {"X-Request-Id": "my-first-request"}
    client.post("/packages", json={"name": "HTTPX", "organization": "mirror"}, headers=yours)
    show_http(client)

# %% [markdown]
"""
`HTTPX` and `httpx` are one package. So the first request finds it, and the second one is refused.

## How a playbook works

Each page answers one question. It shows a failure first, **in front of you**. Then it compares the ways out, builds one in
short cells, and shows the same situation again, working. Checks follow that must never fail again, an exercise, and what
you need to use the recipe in a project of your own. *Start here* shows how to predict, break, solve
and lift.

Cells tagged `export` are the recipe: `from playbook.foundations.transactions import transaction` runs only these. So what
you lift from a page is what runs, and the tests of this course run it every time.

The same page is a plain text (`playbook/foundations/transactions.py`), a script
(`python playbook/foundations/transactions.py`) and a notebook. The course stores its outputs, and a test compares every
one of them with a fresh run. Your own copy has none until you run it.
"""

# %% [markdown]
"""
## Where you are

`playbook lab` opens your own copy of this page. Run the cell there: a page is done when the checker of its exercise has
said `right`. In a terminal, `playbook progress` shows every page.
"""

# %%
from playbook.kit.lesson import show
from playbook.kit.overview import show_progress

show(show_progress())

# %% [markdown]
"""
## The course

Take it in order, or open the one page you need: each says at its top what it needs from others.
"""

# %% [markdown] tags=["map"]
"""
53 playbooks, 41 h 43 min in all. The **core path**, 19 of them in bold, takes 15 h 4 min: begin there.

### foundations: the ground everything stands on (7 h 41 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| **[Start here](foundations/start_here.ipynb)** | 26 | Know for whom this course is, see a first failure, and learn the few helpers that every page uses. |
| **[Settings](foundations/settings.ipynb)** | 49 | Run one program in development, test and production. A wrong configuration stops its start, with one error that names each wrong variable and shows no secret. |
| [Clock and identifiers](foundations/clock_and_identifiers.ipynb) | 51 | Let a test choose the time, the ids and the random bytes. Give each row an id that sorts by age and counts nothing. |
| **[Transactions](foundations/transactions.ipynb)** | 50 | Read a row, decide, and write it, while other requests do the same. No change is lost. |
| [Engines](foundations/engines.ipynb) | 50 | Run one code base on an embedded database and on PostgreSQL, and get every connection back. |
| [Write skew](foundations/write_skew.ipynb) | 42 | Keep a rule that spans several rows, although each transaction changes another row. |
| **[Request and transaction](foundations/request_and_transaction.ipynb)** | 50 | Turn each request into one transaction and one answer. The answer is made after the commit, and it carries an id that leads to the log. |
| [Deny by default](foundations/deny_by_default.ipynb) | 49 | Make each route say who may use it, and find the route that says nothing before a stranger does. |
| [Start and stop](foundations/start_and_stop.ipynb) | 48 | Tell the platform when a process may get traffic, and stop the process without losing a request. |
| [Decisions](foundations/decisions.ipynb) | 46 | Write a decision so that a colleague can keep it, question it or end it two years later, and compute how little would change it. |

### schema: from facts to tables (4 h 41 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Profile the data](schema/profile_data.ipynb) | 49 | Find out what a file really holds, its keys, dependencies and spellings, before you design a table. |
| **[Identity](schema/identity.ipynb)** | 50 | Model people so that a new address, a second spelling and two sign-ups at once do no harm. |
| [Natural keys](schema/natural_keys.ipynb) | 42 | Tell when two names are one and which of two versions is newer, with texts that every database can compare. |
| **[Bulk load](schema/bulk_load.ipynb)** | 47 | Load a file of thousands of rows into any table, all or nothing, and name each refused row by its line and a reason. |
| [Relationships](schema/relationships.ipynb) | 50 | Load a page of rows and all that belongs to them in two statements. Delete a row with what belongs to it. Prove that no reference points to a row that is gone. |
| [Indexes and plans](schema/indexes_and_plans.ipynb) | 43 | Read in a plan whether a query uses an index. Know in advance which one it needs. Find the indexes of a database that are missing, double, unused or in the wrong order. |

### migrations: changing it while it runs (3 h 7 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| **[First migration](migrations/first_migration.ipynb)** | 50 | Turn a changed model into a script that somebody has read, and run it on a database that has rows. |
| [Drift](migrations/drift.ipynb) | 40 | Find where a database is not what the models say, before a request finds it. |
| **[Expand and contract](migrations/expand_and_contract.ipynb)** | 48 | Rename a column in five releases while clients read and write. No request fails, and every row is right. |
| [Test migrations](migrations/test_migrations.ipynb) | 49 | Run each migration up, down and up again over rows, and be told what it loses. |

### api: a contract strangers can rely on (8 h 52 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| **[Resources](api/resources.ipynb)** | 50 | Give each thing in your service a URL, and use HTTP's methods and status codes as clients, caches and proxies already understand them. |
| [Representations](api/representations.ipynb) | 49 | Decide which bodies come in and go out: strict input, patches that change only what they name, and media types that odd clients survive. |
| **[Errors](api/errors.ipynb)** | 50 | Answer every failure of a service in one format. It tells a client what to do next, and an attacker nothing. |
| **[Keyset pagination](api/pagination.ipynb)** | 50 | Read a list page by page. Each row that stays comes exactly once, while other rows come and go. |
| [Signed cursors](api/cursors.ipynb) | 49 | Hand a client its position in a list. Accept only what you handed out, and only for the same list. |
| **[Conditional requests](api/conditional_requests.ipynb)** | 50 | Let two people edit one thing, and lose nobody's work. Let clients ask "has it changed?" for a few bytes. |
| **[Idempotency](api/idempotency.ipynb)** | 49 | Let a client send a POST again after a lost answer. The service acts once, and the client gets the answer. |
| [Retries](api/retries.ipynb) | 47 | Send a request again only where that is safe and can help, and never so often that a failing server stays down. |
| [GraphQL](api/graphql_api.ipynb) | 42 | Let a client choose the fields that it gets, and know what that costs. Answer with one statement for each relation. Let no error tell how the service works. |
| [GraphQL limits](api/graphql_limits.ipynb) | 49 | Refuse a query that is too deep or too large before a statement runs. Or accept only the queries that you know. |
| [Contract](api/contract.ipynb) | 47 | Prove that the service answers as its OpenAPI document says. Then give the document to a TypeScript front end, whose compiler refuses wrong calls. |

### auth: who is it, may they, for how long (15 h 53 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| **[Password hashing](auth/password_hashing.ipynb)** | 50 | Store passwords so that a stolen table gives few of them away, and a very long password stops nobody's work. |
| [Password rules](auth/password_rules.ipynb) | 45 | Refuse the passwords that an attacker guesses first, accept every other one, and say why. |
| [Mail](auth/mail.ipynb) | 53 | Send mail that no input can redirect, and that every test can read. |
| [Mail queue](auth/mail_queue.ipynb) | 50 | No answer waits for a mail server, and no mail waits until another is tried again. |
| [Mail threads](auth/mail_threads.ipynb) | 47 | A silent server holds up only its own mails, and a stop sends what was promised. |
| **[Mailed links](auth/mailed_links.ipynb)** | 49 | Let a person prove that they read a mailbox: once, in time, and nobody in their place. |
| [Cookies](auth/cookies.ipynb) | 46 | Say what a cookie may be trusted with, and send it so that nobody else can make, read or plant it. |
| [Cross-site requests](auth/cross_site.ipynb) | 44 | Let only your own pages act with the browser's cookie, and send nobody to a page that somebody else chose. |
| **[Sessions](auth/sessions.ipynb)** | 54 | Remember who signed in. Once a session has ended, refuse its next request, in every process. |
| [Session lookup](auth/session_lookup.ipynb) | 41 | Answer cheaply what every page asks. Still refuse a revoked session at once. |
| **[Sign up](auth/sign_up.ipynb)** | 41 | Let people join, without telling strangers who has joined, and let nobody prepare an account for somebody else. |
| [Throttling](auth/throttling.ipynb) | 50 | Make guessing slow, on every process together, without a lock that an attacker can pull. |
| **[Sign in](auth/sign_in.ipynb)** | 50 | Let people prove who they are, while attackers guess a million times. Never lock the owner out. |
| **[Password reset](auth/password_reset.ipynb)** | 41 | Let somebody back in who has forgotten the password, and nobody else. |
| [Account changes](auth/account_changes.ipynb) | 48 | Let people change address, password and account, so that a stolen session takes none of them. |
| [Organizations](auth/organizations.ipynb) | 50 | Let people share what they work on: they join by invitation, each has a role, and one owner always stays. |
| [Authorization](auth/authorization.ipynb) | 45 | Decide in one place whether this caller may do this to that, and prove it for each route. |
| [API tokens](auth/api_tokens.ipynb) | 51 | Let a machine sign in with a token that does little, ends soon, and is found when it leaks. |
| [Second factor](auth/second_factor.ipynb) | 49 | Ask for a code from the owner's phone. A stolen password then opens nothing. |
| [A foreign contract](auth/foreign_contract.ipynb) | 49 | Put another backend under a front end that you cannot change. Record the old one, and prove that the new one answers the same. |

### production: beyond one process (1 h 29 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Performance](production/performance.ipynb) | 46 | Find out where the time of a slow request goes, and prove that a change made it quicker. |
| [Pantry](production/pantry.ipynb) | 43 | Find your way in a finished service: follow one request from the socket to the row and back, and see where each wrong request ends. |
"""

# %% [markdown]
"""
## Look something up

Ask with a topic, a whole question, a symptom, the name of an error, or a word of another stack. In a terminal,
`playbook find` followed by your words names the page, the section, and how to open it. Or here:
"""

# %%
from playbook.kit.course import Course
from playbook.kit.lookup import find

for words in ("two users overwrite each other", "emails are sent twice", "next.js"):
    best = find(Course(), words).found[0]
    print(f"{words}: {best.playbook.title}, {best.where[0]}")
