# %% [markdown]
"""
# The Backend Playbook

Build, run and change a real backend, and meet each failure on your own screen before it meets you in production.

The backend is called **Pantry**: a package index that a company runs for itself. People sign up, form organizations
and publish packages; machines upload and install them. Every page of this course is part of its source code.

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

Put the cursor into the cell below and press Shift+Enter. It makes a database, loads 14,971 real packages, starts the
service on a free port, asks it two questions over HTTP, and stops it again.
"""

# %%
from datetime import UTC, datetime

from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.settings import Settings
from playbook.kit.lesson import data_path, lesson_url, serving, show_http
from playbook.service import pantry

settings = Settings(environment="test", database_url=lesson_url())
app = pantry(settings, data_path("packages.csv"), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)))
with serving(app) as client:
    client.get("/packages/HTTPX")
    yours = {"X-Request-Id": "my-first-request"}
    client.post("/packages", json={"name": "HTTPX", "organization": "mirror"}, headers=yours)
    show_http(client)

# %% [markdown]
"""
`HTTPX` and `httpx` are one package, so the first is found and the second refused. Why that takes thought, and what else
goes wrong before it does not, is what the pages are about.

## How a playbook works

Each page answers one question, in ten to twenty minutes, and always in this order: the decision with its alternatives;
the tempting version, **failing in front of you**; the parts, built in short cells; the same situation again, working;
what changes on PostgreSQL; checks that must never fail again; an exercise; and what the next person needs from you.

1. **Predict.** Before a failure there is a question. Answer it, then run the cell. A wrong guess is what you remember.
2. **Run** the page from top to bottom: *Run > Run All Cells*. Running a cell twice does no harm.
3. **Break it.** Change a number, remove a line, run *Check it*. See which property falls.
4. **Your turn.** Write over the stub in the exercise cell and run the checker below it. It says in words what is still
   wrong. The solution is folded away below; click the three dots to open it.

Cells tagged `export` are Pantry itself: `from playbook.foundations.database import transaction` runs only these. So
what you lift from a page is what runs, and the tests of this course run it every time.

The same page is a plain text (`playbook/foundations/database.py`), a script (`python playbook/foundations/database.py`)
and this notebook. Its outputs are stored, and a test compares every one of them with a fresh run.
"""

# %% [markdown]
"""
## The course

Take it in order, or open the one page you need: each says at its top what it needs from others.
"""

# %% [markdown] tags=["map"]
"""
29 playbooks, 10 h 15 min in all.

### foundations: the ground everything stands on (1 h 33 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Settings](foundations/settings.ipynb) | 20 | Run one program in development, test and production, and have it refuse a wrong configuration before the first request. |
| [Clock and identifiers](foundations/clock_and_identifiers.ipynb) | 20 | Make time, identifiers and randomness testable, and give every row an id that sorts by age and counts nothing. |
| [Database](foundations/database.ipynb) | 20 | Run one code base on an embedded and on a production database, and lose no update on either. |
| [HTTP service](foundations/http_service.ipynb) | 18 | Turn a request into exactly one transaction and one honest response, and start and stop the process without losing either. |
| [Decisions](foundations/decisions.ipynb) | 15 | Write a decision so that somebody who was not there can keep it, question it, or end it. |

### schema: from facts to tables (56 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Profile the data](schema/profile_data.ipynb) | 18 | Find out what a file really holds, its keys, its dependencies, its spellings and its lies, before you draw a table. |
| [Identity](schema/identity.ipynb) | 18 | Model people, the ways they sign in, and the organizations they belong to, so that a changed address, a second address and two sign-ups at once do no harm. |
| [Catalog](schema/catalog.ipynb) | 20 | Model packages, releases and files, and load 14,985 real packages in one transaction, with every refused row named by its line. |

### migrations: changing it while it runs (1 h)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [First migration](migrations/first_migration.ipynb) | 20 | Turn a changed model into a script that somebody has read, run it on both engines, and find every database that is not what the models say. |
| [Expand and contract](migrations/expand_and_contract.ipynb) | 20 | Rename a column in five releases while clients read and write, so that no request fails and no row is wrong. |
| [Test migrations](migrations/test_migrations.ipynb) | 20 | Run every migration up, down and up again over rows that nobody chose, and be told what it loses, what it leaves behind and where it works on an empty table only. |

### api: a contract strangers can rely on (2 h 38 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Resources](api/resources.ipynb) | 20 | Give organizations and packages URLs, methods and status codes that clients, caches and proxies already understand. |
| [Errors](api/errors.ipynb) | 49 | Answer every failure of a service in one format. It tells a client what to do next, and an attacker nothing. |
| [Pagination](api/pagination.ipynb) | 20 | Read a list page by page so that every row which stays is seen exactly once, whatever comes and goes meanwhile. |
| [Conditional requests](api/conditional_requests.ipynb) | 49 | Let two people edit one thing, and lose nobody's work. Let clients ask "has it changed?" for a few bytes. |
| [Idempotency](api/idempotency.ipynb) | 20 | Let a client send a POST again after a lost answer, so that it acts once and every answer is the first one. |

### auth: who is it, may they, for how long (3 h 50 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Passwords](auth/passwords.ipynb) | 20 | Keep passwords so that a stolen table, a ten-megabyte password and a legacy import do no harm. |
| [Mail](auth/mail.ipynb) | 20 | Send mail that no input can redirect, that nobody has to wait for without end, and that every test can read. |
| [Mail queue](auth/mail_queue.ipynb) | 20 | Let no answer wait for a mail server, and no mail wait for somebody else's. |
| [The auth wire](auth/wire.ipynb) | 18 | Speak a contract that somebody else wrote so exactly that their client works unchanged, with your own rules behind it. |
| [Cross-site requests](auth/cross_site.ipynb) | 20 | Let only your own pages act with the browser's cookie, and send nobody to a page that somebody else chose. |
| [Sessions](auth/sessions.ipynb) | 20 | Remember who signed in, and forget them at their next request, in every process. |
| [Sign up](auth/sign_up.ipynb) | 20 | Let people join with an address that is theirs, without telling strangers who has joined, or writing their words to others. |
| [Sign in](auth/sign_in.ipynb) | 20 | Let people prove who they are, while anybody may guess a million times, and let no guesser lock them out. |
| [Password reset](auth/password_reset.ipynb) | 18 | Let somebody back in who has forgotten the password, and nobody else: by a link that works once, and whose sender cannot be talked into writing another address on it. |
| [Account changes](auth/account_changes.ipynb) | 20 | Change the password, the address and the account itself, so that a stolen session can do none of it alone. |
| [Session lookup](auth/session_lookup.ipynb) | 18 | Answer the request that every page makes at a small part of its cost, and still refuse a revoked session at once. |
| [The Better Auth contract](auth/better_auth_contract.ipynb) | 16 | Put another backend under a front end that stays as it is, and prove from a recording that nobody will notice. |

### production: beyond one process (18 min)

| playbook | minutes | what you can do afterwards |
|---|--:|---|
| [Pantry](production/pantry.ipynb) | 18 | Assemble a service from parts that keep different contracts, so that one command starts it, a wrong setting stops it, and nothing it promised is lost when it stops. |
"""

# %% [markdown]
"""
## Look something up

In a terminal, `playbook find "lost update"` names the page and the section. Or here, with your own words:
"""

# %%
from playbook.kit.course import Course
from playbook.kit.lookup import find

for words in ("lost update", "typosquatting", "secret in a log"):
    best = find(Course(), words).found[0]
    print(f"{words}: {best.playbook.title}, {best.where[0]}")
