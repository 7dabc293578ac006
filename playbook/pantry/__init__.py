"""Pantry, a package index that a company runs for itself: the service that uses the recipes of the course.

Plain modules. Pantry imports recipes; no recipe imports Pantry (`playbook imports` draws it, a test holds it).

Map
---

`app`                 assembles the parts, starts and stops them: begin here
`settings`            what can be told to it, each variable checked at the start
`server`, `request_reader`, `target`, `limits`, `proxies`, `access_log`, `stop`
                      what stands between the socket and the application
`workers`, `memory`   several processes behind one socket, and what they count together
`http`                one transaction, a caller or none, a request id: what every route has
`quick_way`, `direct` what is asked most, answered without FastAPI: `ok`, and the routes of packages, called directly
`reads`               how a GET asks the database: one statement, where it can be on the event loop
`writes`              how an endpoint writes: one statement with its conditions in it, or a few, where it can be on the
                      event loop
`plans`               how a look-up is asked of DuckDB: by a plan that is kept, mostly on the event loop; or not, while
                      nobody can have written
`connections`         how the pool knows that a connection is alive, and how DuckDB is set up for many small questions
`callers`, `policy`   whose session or API token a request carries, and what its owner may do: one thing, and lists
`tokens`, `redaction` API tokens: how machines sign in; none in a log or an error
`catalog`, `catalog_file`
                      the tables of packages, releases and files, and the load of a file into them
`package_roles`       how a role on one package begins, and ends with the membership
`organizations`, `packages`
                      one module a resource: bodies, list, routes, each written once and whole
`first_page`          the page of packages that most ask for, on DuckDB by look-ups
`graph`, `graph_schema`, `schema.graphql`
                      the same things for clients that choose their fields: POST /graphql, its types, and these as text
`known_queries`       the only queries that it answers, where the operator names them
`fields`, `lists`, `conditions`, `keys`
                      what the routes have in common: kinds of text, pages, ETags, idempotency keys
`errors`, `strict_input`, `document`, `docs`, `headers`
                      problem details, input that cannot be misread, the OpenAPI document, security headers
`published`           the document that is handed out, and which changes of it break a client
`auth/`               everything under `/api/auth`, in the contract of Better Auth: `better_auth` assembles it, `wire`
                      is its form, `tables` its rows, then one module for each flow: `cross_site`, `sessions`,
                      `session_lookup`, `sign_up`, `sign_in`, `second_step`, `two_factor`, `links`, `password_reset`,
                      `account_changes`, `passwords`; `organizations`, `members` and `invitations` with what they
                      share, `memberships`; `recorded` compares its answers with those of a real server
`mail_senders`        where mail goes: SMTP, a file, memory
`postbox`             the queue of mails and its threads; work that no answer waits for
`mailboxes`           how many mails one address gets
`housekeeping`, `indexes`, `repair`
                      expired rows; index entries that a crash has cost, found and mended
`revisions/`, `history`, `migrating`
                      the Alembic history, and the recipes that run it

Where something new goes: a resource into a module of its own, with its router in `app.resource_api`; a table into a
revision, and its model beside the recipe or the resource that needs it; an auth flow into `auth/`, with its router in
`auth.better_auth`; a setting into `settings.Fields`.

One request, from the socket to the row and back
------------------------------------------------

Ada renames her organization: `PATCH /organizations/acme` with `If-Match`, and the cookie of her session.

1.  `server` has accepted the connection (of several `workers` one that has no more than the others), and
    `request_reader` has read the head and knows where the request ends. `proxies` believes `X-Forwarded-For` from the
    networks that the operator has named, and `access_log` starts its line.
2.  `headers.SecurityHeaders` will complete the answer. `target.RequestTarget` has made the target a path.
    `limits.RequestLimits` refuses a head that is too large, and a network that asks too often: 431, 429.
3.  `SessionLookup` answers `GET /api/auth/get-session` by itself, and `QuickWay` plain requests for packages, by the
    endpoints that FastAPI would call; this request they hand on. `Handover` looks at the path: `/api/auth` is the
    other application, so the request goes on to the resources.
4.  `AnswerCookies` opens a place for cookies that must reach the browser whatever the answer will be.
5.  The middleware, from the outside: `OnlyProblems` (no error leaves in another form), `RequestId`, `HeadAsGet`,
    `CallerFirst` (of a stranger's body nothing is read), `StrictInput` (no body that two readers could read
    differently), `IdempotencyKeys` (for a POST with a key; this is none).
6.  FastAPI finds `organizations.change_organization` and runs its dependencies: `takes` (415), `permission` asks
    `callers.quick_caller`, which reads the cookie, checks the `Origin` (403) and looks for the session on the
    event loop; where that does not settle it, `callers.any_caller` does the same in a transaction, and prolongs the
    session when it is time (401). The body becomes an `OrganizationPatch` (422).
7.  The route calls `transact(work)`. In one transaction, at snapshot isolation, `policy.may` reads whether the
    organization exists for Ada (404) and her role in it (403). Then `work` reads the row, compares the ETag of what is
    there with `If-Match` (428, 412), changes the row, and adds one to its version. If another client has changed the
    row meanwhile, the database refuses the commit, and `transact` runs all of it again, role and comparison included:
    now it is a 412. (A package is changed by `writes`: on PostgreSQL by one UPDATE, in whose conditions the role and
    the version are, on the event loop; what changes nothing there is done again by `transact`, which says why.)
8.  The commit has happened; only then is there an answer. `conditions.tagged` puts the new ETag on it, FastAPI writes
    the body, and on the way out each layer adds its own: the request id, a renewed cookie, the security headers, the
    line in the log with the route, the status and the time, and nothing that was sent.
"""
