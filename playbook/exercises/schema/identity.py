"""The exercise of the page "Identity": its checker, its hints, wrong answers; and what the page's stage needs."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, show, table
from playbook.kit.stage import Timeline

STEPS = ("Maria signs up", "Maria becomes admin", "Maria marries", "Martin signs up")


def run_steps(*statements: str) -> str:
    """Run SQL, each statement in a transaction; after each of the last four, show who is admin. Who is at the end."""
    engine = make_engine(lesson_url())
    rows: list[tuple[str, str]] = []
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
            connection.commit()
            if not statement.startswith("CREATE"):
                admins = connection.scalars(sa.text("SELECT name FROM users NATURAL JOIN admins")).all()
                rows.append((STEPS[len(rows)], ", ".join(admins) or "no one"))
    show(table(rows, ["step", "admins"]))
    return rows[-1][1]


def two_at_once(url: str, people: sa.Table, sign_up: Callable[..., str], timeline: bool = False) -> int:
    """The sign-up from the phone, with all of that from the laptop in its middle. How many rows there are then."""
    engine = make_engine(url)
    people.create(engine)
    lanes = Timeline("phone", "laptop").watch(engine)

    def run(name: str, number: int, meanwhile: Callable[[], None]) -> None:
        with lanes.lane(name):
            lanes.note(f"told: {transaction(engine, lambda db: sign_up(db, number, meanwhile))}")

    run("phone", 1, lambda: run("laptop", 2, lambda: None))
    if timeline:
        show(lanes.shown())
    with engine.connect() as connection:
        rows = len(connection.execute(sa.select(people)).all())
    engine.dispose()
    return rows


HINTS = (
    "See the unique indexes of `Member` and `Account`: which of drop's rows can simply\n"
    "change their `user_id`? And what does `ROLES` say besides the three words?",
    "Go through drop's memberships. If keep has none in that organization, move it.\n"
    "Else raise keep's role if drop's is higher, and delete drop's row. Accounts: first\n"
    "delete the password, then move the rest. The user goes last. Count each change of an\n"
    "organization in `Organization.version`.",
)

WRONG = (
    # moves all memberships: two in one organization
    """
def merge(db, keep, drop):
    db.execute(sa.delete(Account).where(Account.user_id == drop, Account.provider == "credential"))
    for model in (Member, Account):
        db.execute(sa.update(model).where(model.user_id == drop).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
    # keeps keep's role also where drop's is higher
    """
def merge(db, keep, drop):
    mine = sa.select(Member.organization_id).where(Member.user_id == keep)
    db.execute(sa.delete(Member).where(Member.user_id == drop, Member.organization_id.in_(mine)))
    db.execute(sa.delete(Account).where(Account.user_id == drop, Account.provider == "credential"))
    for model in (Member, Account):
        db.execute(sa.update(model).where(model.user_id == drop).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
    # compares roles as words: "owner" > "member" > "admin"
    """
def merge(db, keep, drop):
    mine = {m.organization_id: m for m in db.scalars(sa.select(Member).where(Member.user_id == keep))}
    for member in db.scalars(sa.select(Member).where(Member.user_id == drop)).all():
        kept = mine.get(member.organization_id)
        if kept:
            kept.role = max(kept.role, member.role)
            db.delete(member)
        else:
            member.user_id = keep
    db.flush()
    db.execute(sa.delete(Account).where(Account.user_id == drop, Account.provider == "credential"))
    db.execute(sa.update(Account).where(Account.user_id == drop).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
    # moves the old password, too
    """
def merge(db, keep, drop):
    mine = {m.organization_id: m for m in db.scalars(sa.select(Member).where(Member.user_id == keep))}
    for member in db.scalars(sa.select(Member).where(Member.user_id == drop)).all():
        kept = mine.get(member.organization_id)
        if kept:
            kept.role = max(kept.role, member.role, key=ROLES.index)
            db.delete(member)
        else:
            member.user_id = keep
    db.flush()
    db.execute(sa.update(Account).where(Account.user_id == drop).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
    # deletes the user and relies on a cascade
    """
def merge(db, keep, drop):
    mine = {m.organization_id: m for m in db.scalars(sa.select(Member).where(Member.user_id == keep))}
    for member in db.scalars(sa.select(Member).where(Member.user_id == drop)).all():
        kept = mine.get(member.organization_id)
        if kept:
            kept.role = max(kept.role, member.role, key=ROLES.index)
        else:
            member.user_id = keep
    db.flush()
    github = Account.provider != "credential"
    db.execute(sa.update(Account).where(Account.user_id == drop, github).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
    # counts no change of an organization
    """
def merge(db, keep, drop):
    mine = {m.organization_id: m for m in db.scalars(sa.select(Member).where(Member.user_id == keep))}
    for member in db.scalars(sa.select(Member).where(Member.user_id == drop)).all():
        kept = mine.get(member.organization_id)
        if kept:
            kept.role = max(kept.role, member.role, key=ROLES.index)
            db.delete(member)
        else:
            member.user_id = keep
    db.flush()
    db.execute(sa.delete(Account).where(Account.user_id == drop, Account.provider == "credential"))
    db.execute(sa.update(Account).where(Account.user_id == drop).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))
""",
)

# Slug: the role of `keep`, of `drop`, and the one that must be left.
SHARED = {
    "both": ("member", "owner", "owner"),
    "only-drop": (None, "admin", "admin"),
    "only-keep": ("member", None, "member"),
    "keep-is-higher": ("owner", "member", "owner"),
    "words-deceive": ("member", "admin", "admin"),
}


class Models:
    """The page's models; in a notebook they are the notebook's own."""

    def __init__(self, user: Any, account: Any, organization: Any, member: Any) -> None:
        self.user, self.account, self.organization, self.member = user, account, organization, member

    def two_marias(self, db: Session) -> tuple[UUID, UUID, UUID]:
        """The ids of `keep`, of `drop`, and of Martin, who must stay as he is."""
        now = datetime(2026, 11, 2, tzinfo=UTC)
        ids = Identifiers(FixedClock(now), SeededBytes(1))

        def add(model: Any, **values: Any) -> UUID:
            row = model(id=ids.new(), created_at=now, **values)
            db.add(row)
            db.flush()
            made: UUID = row.id
            return made

        def person(email: str) -> UUID:
            return add(self.user, email=email, name="Maria", updated_at=now)

        keep, drop = person("maria@acme.example"), person("maria@home.example")
        martin = person("martin@acme.example")
        for slug, (of_keep, of_drop, _) in SHARED.items():
            organization = add(self.organization, slug=slug, name=slug, updated_at=now)
            for user, role in ((keep, of_keep), (drop, of_drop), (martin, "member")):
                if role is not None:
                    add(self.member, organization_id=organization, user_id=user, role=role)
        for user in (keep, drop, martin):
            row = {"user_id": user, "updated_at": now}
            secret = {"provider": "credential", "password_hash": f"hash of {user}"}
            add(self.account, **row, **secret, provider_account_id=str(user))
            add(self.account, **row, provider="github", provider_account_id=f"github of {user}")
        return keep, drop, martin

    def rows_of(self, db: Session, user: UUID) -> tuple[dict[str, str], list[str]]:
        """The roles of a user by slug, and what opens them: hashes of passwords, and ids at GitHub."""
        of_member = self.member.organization_id == self.organization.id
        roles = sa.select(self.organization.slug, self.member.role).join(self.member, of_member)
        found = db.execute(roles.where(self.member.user_id == user)).all()
        accounts = db.scalars(sa.select(self.account).where(self.account.user_id == user))
        keys = sorted(account.password_hash or account.provider_account_id for account in accounts)
        return {slug: role for slug, role in found}, keys


@checker
def check(merge: Callable[..., Any], user: Any, account: Any, organization: Any, member: Any) -> str:
    """Two Marias and Martin, in five organizations; then what is left of each."""
    models = Models(user, account, organization, member)
    engine = make_engine(lesson_url())
    Base.metadata.create_all(engine)
    keep, drop, martin = transaction(engine, models.two_marias)
    before = transaction(engine, lambda db: models.rows_of(db, martin))
    try:
        transaction(engine, lambda db: merge(db, keep, drop))
    except sa.exc.IntegrityError:
        return "not yet: the database refused it: did both have such a row, or does a row still refer to `drop`?"
    with Session(engine) as db:
        if db.get(user, drop) is not None or db.get(user, keep) is None:
            return "not yet: `drop` must be gone afterwards, and `keep` must be there"
        if any(models.rows_of(db, drop)):
            return "not yet: `drop` is gone, but rows still refer to it; nothing deletes or moves them for you"
        roles, keys = models.rows_of(db, keep)
        for slug, (of_keep, of_drop, expected) in SHARED.items():
            if roles.get(slug) != expected:
                had = f"`keep` was {of_keep or 'no member'} and `drop` was {of_drop or 'no member'}"
                return f"not yet: in one organization {had}; now `keep` is {roles.get(slug, 'no member')}"
        if f"hash of {drop}" in keys:
            return "not yet: with drop's old password somebody can still sign in as `keep`"
        if f"hash of {keep}" not in keys:
            return "not yet: `keep` can no longer sign in with her own password"
        if f"github of {drop}" not in keys or f"github of {keep}" not in keys:
            return "not yet: Maria signed in with two GitHub accounts, and one of them no longer opens anything"
        versions: dict[str, int] = dict(db.execute(sa.select(organization.slug, organization.version)).all())
        for slug, (_, of_drop, _) in SHARED.items():
            if versions[slug] != (1 if of_drop is None else 2):
                return "not yet: `version` of each of drop's organizations should be one higher than before"
        if models.rows_of(db, martin) != before:
            return "not yet: Martin is a member of the same organizations, and something of his has changed"
    return "right"
