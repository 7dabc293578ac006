"""Better Auth's organizations in Pantry, over real HTTP, on both engines: what the recording cannot show."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi import HTTPException, Request

from playbook.auth.mail import Mail
from playbook.foundations.clock_and_identifiers import hash_token, is_token
from playbook.kit.live import LiveClient
from playbook.pantry.auth import invitations, members, memberships, organizations
from playbook.pantry.auth.memberships import EVERYTHING, WORDS, allows
from playbook.pantry.auth.sessions import SESSION, cookies_of, start_session
from playbook.pantry.auth.tables import Invitation, OrganizationDetails, UserSession
from playbook.pantry.catalog import Package, PackageRole
from playbook.pantry.housekeeping import sweep
from playbook.pantry.http import Caller
from playbook.pantry.package_roles import give_role
from playbook.pantry.policy import may
from playbook.schema.identity import ROLES, Member, Organization, User, add_user
from playbook.schema.relationships import orphans
from tests.auth.conftest import ORIGIN, Service

Start = Callable[..., Service]
TWO_DAYS = timedelta(days=2)


@dataclass
class Team:
    """Acme with a member of each role, and a stranger with an organization of their own; each signed in."""

    service: Service
    ids: dict[str, UUID] = field(default_factory=dict)
    browsers: dict[str, LiveClient] = field(default_factory=dict)
    acme: str = ""
    asked: str = ""  # the route of the last call

    def join(self, name: str, verified: bool = True) -> None:
        """Somebody signs up and in, without a password: to hash one takes a while."""
        auth = self.service.auth

        def work(db: Any) -> tuple[UUID, str]:
            user = add_user(db, auth.clock, auth.ids, f"{name}@example.com", name.title(), email_verified=verified)
            request = Request({"type": "http", "headers": [], "client": None})
            return user.id, start_session(db, auth, user.id, request)[1]

        self.ids[name], token = auth.transact(work)
        cookies = cookies_of(auth)
        cookie = f"{cookies.prefix}{SESSION}={cookies.signed(token)}"
        url = str(self.service.client.base_url)
        self.browsers[name] = LiveClient(url, headers={"origin": ORIGIN, "cookie": cookie})

    def post(self, who: str, call: str, **body: Any) -> Any:
        self.asked = f"POST /api/auth/organization/{call}"
        return self.browsers[who].post(f"/api/auth/organization/{call}", json=body)

    def get(self, who: str, call: str, **query: str) -> Any:
        self.asked = f"GET /api/auth/organization/{call}"
        return self.browsers[who].get(f"/api/auth/organization/{call}", params=query)

    def add(self, name: str, role: str, organization_id: UUID | None = None) -> UUID:
        """Write a membership; its id."""
        auth = self.service.auth
        id = auth.ids.new()
        into = {"organization_id": organization_id or UUID(self.acme), "user_id": self.ids[name]}
        row = Member(id=id, role=role, created_at=auth.clock.now(), **into)
        auth.transact(lambda db: db.add(row))
        return id

    def invite(self, who: str, email: str, role: str = "member", **more: Any) -> Mail:
        before = len(self.service.mails())
        answer = self.post(who, "invite-member", email=email, role=role, organizationId=self.acme, **more)
        assert answer.status_code == 200, answer.text
        [mail] = self.service.mails()[before:]
        return mail

    def rows(self, model: type[Any]) -> list[Any]:
        return list(self.service.auth.transact(lambda db: db.scalars(sa.select(model)).all()))

    def roles(self) -> dict[str, str]:
        """By name, in Acme."""
        names = {id: name for name, id in self.ids.items()}
        return {names[row.user_id]: row.role for row in self.rows(Member) if str(row.organization_id) == self.acme}


@pytest.fixture
def team(auth_service: Start) -> Iterator[Callable[..., Team]]:
    made: list[Team] = []

    def start(*names: str, **settings: Any) -> Team:
        team = Team(auth_service(**{"rate_limits": False} | settings))
        made.append(team)
        for name in ("olga", *names):
            team.join(name)
        team.acme = team.post("olga", "create", name="Acme", slug="acme").json()["id"]
        return team

    yield start
    for each in made:
        for browser in each.browsers.values():
            browser.close()


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


# ---------------------------------------------------------------- role by call


ROLE_CALLS = {  # what the test below tries as each role, by route: `test_auth_matrix` has a row for each other route
    "look": "GET get-full-organization", "list members": "GET list-members",
    "list invitations": "GET list-invitations", "update": "POST update", "invite member": "POST invite-member",
    "invite owner": "POST invite-member", "cancel": "POST cancel-invitation",
    "make admin": "POST update-member-role", "make owner": "POST update-member-role",
    "remove": "POST remove-member", "delete": "POST delete",
}  # fmt: skip


@pytest.mark.proves("ASVS 8.2.1", "ASVS 8.2.2")
def test_each_call_by_each_role(team: Callable[..., Team]) -> None:
    """Who may do what, as the table says; a stranger nothing, and a member of another organization neither."""
    t = team("anna", "mark", "zoe", "target", "other", "third", "fourth")
    for name, role in {"anna": "admin", "mark": "member"}.items():
        t.add(name, role)
    elsewhere = UUID(t.post("zoe", "create", name="Zoe's", slug="zoe").json()["id"])
    assert elsewhere != UUID(t.acme)

    def target() -> str:
        """A member on whom the call can be tried, anew each time."""
        auth = t.service.auth
        auth.transact(lambda db: db.execute(sa.delete(Member).where(Member.user_id == t.ids["target"])))
        return str(t.add("target", "member"))

    def invitation() -> str:
        t.invite("olga", "guest@example.com", resend=True)
        return next(str(row.id) for row in t.rows(Invitation) if row.email == "guest@example.com")

    in_acme = {"organizationId": t.acme}
    calls: dict[str, Callable[[str], Any]] = {
        "look": lambda who: t.get(who, "get-full-organization", **in_acme),
        "list members": lambda who: t.get(who, "list-members", **in_acme),
        "list invitations": lambda who: t.get(who, "list-invitations", **in_acme),
        "update": lambda who: t.post(who, "update", data={"name": "Acme"}, **in_acme),
        "invite member": lambda who: t.post(
            who, "invite-member", email="new@example.com", role="member", resend=True, **in_acme
        ),
        "invite owner": lambda who: t.post(
            who, "invite-member", email="own@example.com", role="owner", resend=True, **in_acme
        ),
        "cancel": lambda who: t.post(who, "cancel-invitation", invitationId=invitation()),
        "make admin": lambda who: t.post(who, "update-member-role", memberId=target(), role="admin", **in_acme),
        "make owner": lambda who: t.post(who, "update-member-role", memberId=target(), role="owner", **in_acme),
        "remove": lambda who: t.post(who, "remove-member", memberIdOrEmail=target(), **in_acme),
        "delete": lambda who: t.post(who, "delete", **in_acme),
    }
    people = {"olga": "owner", "anna": "admin", "mark": "member", "zoe": ""}
    everybody, managers, owners = {"owner", "admin", "member"}, {"owner", "admin"}, {"owner"}
    may = {
        "look": everybody, "list members": everybody, "list invitations": managers, "update": managers,
        "invite member": managers, "invite owner": owners, "cancel": managers, "make admin": managers,
        "make owner": owners, "remove": managers, "delete": owners,
    }  # fmt: skip
    assert may.keys() == calls.keys() == ROLE_CALLS.keys()
    for name, call in calls.items():
        for who in sorted(people, key=lambda who: people[who] == "owner"):  # the owner last: "delete" deletes
            answer = call(who)
            assert t.asked == ROLE_CALLS[name].replace(" ", " /api/auth/organization/")
            assert (answer.status_code == 200) == (people[who] in may[name]), (name, people[who], answer.text)
            if answer.status_code != 200:
                assert answer.status_code in (400, 401, 403), (name, people[who])
    with t.service.auth.engine.connect() as db:
        assert orphans(db, Organization.metadata) == [], "deleting an organization leaves rows behind"


def test_the_table_of_permissions_allows_nothing_that_is_not_in_it() -> None:
    assert not allows("king", {"member": ["create"]})
    assert not allows("owner", {}), "nothing was asked for"
    assert not allows("owner", {"package": ["delete"]})
    for role in ROLES:
        for kind, actions in EVERYTHING.items():
            for action in actions:
                expected = role == "owner" or (role == "admin" and (kind, action) != ("organization", "delete"))
                assert allows(role, {kind: [action]}) == expected, (role, kind, action)


# ---------------------------------------------------------------- invitations


@pytest.mark.proves("ASVS 8.2.2")
def test_only_who_reads_the_mail_of_a_proven_address_accepts(team: Callable[..., Team]) -> None:
    t = team("bob", "mallory")
    mail = t.invite("olga", "bob@example.com", "admin")
    assert (mail.type, mail.to) == ("invitation", "bob@example.com")
    assert mail.url == f"{ORIGIN}/accept-invitation#{mail.token}"
    assert is_token(mail.token, "invitation")
    assert "Acme" not in mail.text, "a name is free text: a stranger would write a link into it"
    [row] = t.rows(Invitation)
    assert row.token_hash == hash_token(mail.token)
    listed = t.get("olga", "list-invitations").text + t.get("bob", "list-user-invitations").text
    assert mail.token not in listed
    assert str(row.id) in listed

    for who, sent, expected in (
        ("mallory", mail.token, (403, "YOU_ARE_NOT_THE_RECIPIENT_OF_THE_INVITATION")),
        ("mallory", str(row.id), (400, "INVITATION_NOT_FOUND")),
        ("bob", str(row.id), (400, "INVITATION_NOT_FOUND")),
        ("bob", "x" * 3000, (400, "INVITATION_NOT_FOUND")),
    ):
        for call in ("accept-invitation", "reject-invitation"):
            assert code(t.post(who, call, invitationId=sent)) == expected, (who, call)
    t.service.auth.transact(lambda db: db.execute(sa.update(User).values(email_verified=False)))
    needed = "EMAIL_VERIFICATION_REQUIRED_BEFORE_ACCEPTING_OR_REJECTING_INVITATION"
    assert code(t.post("bob", "accept-invitation", invitationId=mail.token)) == (403, needed)
    assert code(t.get("bob", "list-user-invitations"))[0] == 403
    t.service.auth.transact(lambda db: db.execute(sa.update(User).values(email_verified=True)))
    assert t.roles() == {"olga": "owner"}

    accepted = t.post("bob", "accept-invitation", invitationId=mail.token)
    assert accepted.json()["member"]["role"] == "admin"
    assert t.roles() == {"olga": "owner", "bob": "admin"}
    assert t.service.whoami(t.browsers["bob"])["session"]["activeOrganizationId"] == t.acme


def test_without_strict_proof_the_id_is_enough_for_a_proven_address(team: Callable[..., Team]) -> None:
    t = team("bob", "mallory", strict_proof=False, require_email_verification=False)
    mail = t.invite("olga", "bob@example.com")
    [row] = t.rows(Invitation)
    for who, status in (("mallory", 403), ("bob", 200)):
        assert t.get(who, "get-invitation", id=str(row.id)).status_code == status
    assert t.get("bob", "get-invitation", id=mail.token).status_code == 200, "to look has changed something"
    assert code(t.post("mallory", "accept-invitation", invitationId=str(row.id)))[0] == 403
    assert t.post("bob", "accept-invitation", invitationId=str(row.id)).status_code == 200
    assert code(t.post("bob", "accept-invitation", invitationId=mail.token)) == (400, "INVITATION_NOT_FOUND")


def test_an_invitation_ends(team: Callable[..., Team]) -> None:
    """By its time, by another mail, by being taken back, and when its sender may invite no more."""
    t = team("anna", "bob", "carol")
    admin = t.add("anna", "admin")
    first = t.invite("olga", "bob@example.com")
    second = t.invite("olga", "bob@example.com", resend=True)
    assert code(t.post("bob", "accept-invitation", invitationId=first.token)) == (400, "INVITATION_NOT_FOUND")
    t.service.clock.advance(TWO_DAYS)
    for call in ("accept-invitation", "reject-invitation"):
        assert code(t.post("bob", call, invitationId=second.token)) == (400, "INVITATION_NOT_FOUND"), call
    assert code(t.get("bob", "get-invitation", id=second.token)) == (400, "INVITATION_NOT_FOUND")
    assert t.get("bob", "list-user-invitations").json() == []
    sweep(t.service.auth.engine, t.service.clock.now())
    assert t.rows(Invitation) == [], "nobody deletes what has expired"

    by_anna, owners = t.invite("anna", "carol@example.com", "admin"), t.invite("olga", "bob@example.com", "owner")
    ids = {row.email: str(row.id) for row in t.rows(Invitation)}
    taken_back = t.post("anna", "cancel-invitation", invitationId=ids["bob@example.com"])
    assert code(taken_back) == (403, "YOU_ARE_NOT_ALLOWED_TO_CANCEL_THIS_INVITATION"), "an owner's"
    over = t.post("anna", "invite-member", email="bob@example.com", role="member", resend=True, organizationId=t.acme)
    assert code(over) == (403, "YOU_ARE_NOT_ALLOWED_TO_INVITE_USERS_TO_THIS_ORGANIZATION"), "an owner's, again"
    assert len(t.get("anna", "list-invitations", organizationId=t.acme).json()) == 1, "an admin sees the owner's"
    assert t.post("olga", "update-member-role", memberId=str(admin), role="member").status_code == 200
    assert code(t.post("carol", "accept-invitation", invitationId=by_anna.token)) == (400, "INVITATION_NOT_FOUND")
    assert t.post("bob", "reject-invitation", invitationId=owners.token).status_code == 200
    again = t.post("olga", "cancel-invitation", invitationId=ids["bob@example.com"])
    assert code(again) == (400, "INVITATION_NOT_FOUND"), "what was answered stays answered"


def test_invitations_are_limited(team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch) -> None:
    t = team("bob", rate_limits=True)
    monkeypatch.setattr("playbook.pantry.auth.invitations.MOST_INVITATIONS", 2)
    monkeypatch.setattr("playbook.pantry.auth.invitations.MOST_MEMBERS", 1)
    new = {"role": "member", "organizationId": t.acme}
    mail = t.invite("olga", "bob@example.com")
    t.invite("olga", "b@example.com")
    assert code(t.post("olga", "invite-member", email="c@example.com", **new)) == (403, "INVITATION_LIMIT_REACHED")
    assert code(t.post("bob", "accept-invitation", invitationId=mail.token))[1] == (
        "ORGANIZATION_MEMBERSHIP_LIMIT_REACHED"
    )
    for _ in range(2):
        t.invite("olga", "b@example.com", resend=True)
    assert t.post("olga", "invite-member", email="b@example.com", resend=True, **new).status_code == 429


def test_fifty_answers_to_one_invitation_make_one_member(team: Callable[..., Team]) -> None:
    t = team("bob")
    mail = t.invite("olga", "bob@example.com")
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda _: t.post("bob", "accept-invitation", invitationId=mail.token), range(50))
        heard = sorted(answer.status_code for answer in answers)
    assert heard == [200] + [400] * 49
    assert t.roles() == {"olga": "owner", "bob": "member"}


# ---------------------------------------------------------------- members


@contextmanager
def both_have_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two calls meet after reading who they are, and before either writes."""
    meeting, touch = threading.Barrier(2), memberships.touch

    def meet(db: Any, organization_id: UUID) -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(30)
        meeting.abort()  # who comes again after a conflict does not wait
        touch(db, organization_id)

    with monkeypatch.context() as patch:
        for module in (members, invitations, organizations):
            patch.setattr(module, "touch", meet)
        yield


@pytest.mark.parametrize("call", ["leave", "demote", "remove each other"])
def test_of_two_owners_who_go_at_once_one_stays(
    team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    t = team("paul")
    ids = {"olga": next(str(row.id) for row in t.rows(Member)), "paul": str(t.add("paul", "owner"))}
    other = {"olga": "paul", "paul": "olga"}

    def go(who: str) -> Any:
        if call == "leave":
            return t.post(who, "leave", organizationId=t.acme)
        if call == "demote":
            return t.post(who, "update-member-role", memberId=ids[who], role="member", organizationId=t.acme)
        return t.post(who, "remove-member", memberIdOrEmail=ids[other[who]], organizationId=t.acme)

    with both_have_read(monkeypatch), ThreadPoolExecutor(2) as threads:
        heard = sorted(answer.status_code for answer in threads.map(go, ("olga", "paul")))
    assert list(t.roles().values()).count("owner") == 1, "no owner, or both are left"
    assert heard[0] == 200
    assert heard[1] in (400, 401)


def test_the_last_owner_stays_and_ownership_moves(team: Callable[..., Team]) -> None:
    t = team("bob")
    [owner] = t.rows(Member)
    member = t.add("bob", "member")
    stay = "YOU_CANNOT_LEAVE_THE_ORGANIZATION_AS_THE_ONLY_OWNER"
    assert code(t.post("olga", "leave", organizationId=t.acme)) == (400, stay)
    assert code(t.post("olga", "remove-member", memberIdOrEmail="OLGA@example.com")) == (400, stay)
    assert code(t.post("olga", "update-member-role", memberId=str(owner.id), role="admin")) == (
        400, "YOU_CANNOT_LEAVE_THE_ORGANIZATION_WITHOUT_AN_OWNER",
    )  # fmt: skip
    assert t.post("olga", "update-member-role", memberId=str(member), role="owner").status_code == 200
    assert t.post("olga", "leave", organizationId=t.acme).status_code == 200
    assert t.roles() == {"bob": "owner"}


@pytest.mark.proves("ASVS 8.3.2")
def test_a_removed_member_and_a_changed_role_count_at_the_next_request(team: Callable[..., Team]) -> None:
    t = team("bob")
    member = t.add("bob", "admin")
    assert t.post("bob", "set-active", organizationId=t.acme).status_code == 200
    assert t.post("bob", "update", data={"name": "Acme 2"}).status_code == 200
    assert t.post("olga", "update-member-role", memberId=str(member), role="member").status_code == 200
    assert t.post("bob", "update", data={"name": "Acme 3"}).status_code == 403
    assert t.post("bob", "has-permission", permissions={"member": ["create"]}).json()["success"] is False
    assert t.post("olga", "remove-member", memberIdOrEmail=str(member)).status_code == 200
    for call in ("list-members", "get-full-organization", "list-invitations"):
        assert t.get("bob", call, organizationId=t.acme).status_code == 403, call
    assert "activeOrganizationId" not in t.service.whoami(t.browsers["bob"])["session"]
    assert code(t.get("bob", "get-active-member")) == (400, "NO_ACTIVE_ORGANIZATION")


def own_package(t: Team, organization_id: UUID, name: str) -> Package:
    """A private package."""
    auth = t.service.auth
    times = {"created_at": auth.clock.now(), "updated_at": auth.clock.now()}
    values = {"name": name, "normalized_name": name, "private": True} | times
    package = Package(id=auth.ids.new(), organization_id=organization_id, **values)
    auth.transact(lambda db: db.add(package))
    return package


def give(t: Team, who: str, package: Package, role: Any = "maintainer") -> None:
    auth = t.service.auth
    auth.transact(lambda db: give_role(db, auth.ids.new(), package, t.ids[who], role, auth.clock.now()))


def permitted(t: Team, who: str, name: str) -> list[str]:
    """What somebody may do with a package; nothing at all when it does not exist for them."""
    caller, actions = Caller(t.ids[who], who), ("packages:read", "packages:write", "packages:delete")

    def work(db: Any) -> list[str]:
        with suppress(HTTPException):
            return [action for action in actions if may(db, caller, action, {"name": name})]
        return []

    return list(t.service.auth.transact(work))


@pytest.mark.proves("ASVS 8.3.2")
@pytest.mark.parametrize("call", ["remove-member", "leave"])
def test_the_package_roles_of_a_member_end_with_the_membership(team: Callable[..., Team], call: str) -> None:
    """Invited again, they get what the invitation says; roles elsewhere, and those of others, stay."""
    t = team("bob", "eve")
    t.add("bob", "member")
    theirs = UUID(t.post("eve", "create", name="Other", slug="other").json()["id"])
    for package in (own_package(t, UUID(t.acme), "secret"), own_package(t, theirs, "others")):
        give(t, "bob", package, "uploader")
        give(t, "bob", package)
        give(t, "eve", package)
    maintained = ["packages:read", "packages:write"]
    assert permitted(t, "bob", "secret") == permitted(t, "bob", "others") == maintained
    if call == "leave":
        assert t.post("bob", "leave", organizationId=t.acme).status_code == 200
    else:
        assert t.post("olga", "remove-member", memberIdOrEmail="bob@example.com").status_code == 200
    assert permitted(t, "bob", "secret") == [], "who was removed still has the package"
    mail = t.invite("olga", "bob@example.com")
    assert t.post("bob", "accept-invitation", invitationId=mail.token).status_code == 200
    assert t.roles()["bob"] == "member"
    assert permitted(t, "bob", "secret") == ["packages:read"], "more than the invitation gives"
    assert permitted(t, "bob", "others") == permitted(t, "eve", "secret") == maintained


def give_to_a_member(t: Team, package: Package, meanwhile: Callable[[], None]) -> bool:
    """Bob gets a role if he is a member. `meanwhile` runs after this was read, also at each new attempt."""
    auth = t.service.auth

    def work(db: Any) -> bool:
        here = [Member.organization_id == package.organization_id, Member.user_id == t.ids["bob"]]
        is_member = db.scalar(sa.select(Member.id).where(*here)) is not None
        meanwhile()
        if is_member:
            give_role(db, auth.ids.new(), package, t.ids["bob"], "maintainer", auth.clock.now())
        return is_member

    return bool(auth.transact(work))


def test_a_role_that_is_given_while_its_member_is_removed_does_not_stay(
    team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each overtakes the other once: the other has read and has not written."""
    t, once = team("bob"), [True]
    package = own_package(t, UUID(t.acme), "secret")

    def remove() -> None:
        if once and once.pop():
            assert t.post("olga", "remove-member", memberIdOrEmail="bob@example.com").status_code == 200

    t.add("bob", "member")
    assert give_to_a_member(t, package, remove) is False
    assert (once, t.roles(), t.rows(PackageRole)) == ([], {"olga": "owner"}, [])

    touch, given = members.touch, list[bool]()

    def overtaken(db: Any, organization_id: UUID) -> None:
        if not given:
            given.append(give_to_a_member(t, package, lambda: None))
            assert len(t.rows(PackageRole)) == 1
        touch(db, organization_id)

    t.add("bob", "member")
    monkeypatch.setattr(members, "touch", overtaken)
    assert t.post("olga", "remove-member", memberIdOrEmail="bob@example.com").status_code == 200
    assert (given, t.roles(), t.rows(PackageRole)) == ([True], {"olga": "owner"}, [])


def test_somebody_elses_member_is_out_of_reach(team: Callable[..., Team]) -> None:
    """An owner of one organization names a member of another one."""
    t = team("zoe")
    t.post("zoe", "create", name="Zoe's", slug="zoe")
    olga = next(str(row.id) for row in t.rows(Member) if row.user_id == t.ids["olga"])
    assert code(t.post("zoe", "update-member-role", memberId=olga, role="member")) == (400, "MEMBER_NOT_FOUND")
    for named in (olga, "olga@example.com", "not an id", "@"):
        assert code(t.post("zoe", "remove-member", memberIdOrEmail=named)) == (400, "MEMBER_NOT_FOUND")
    assert code(t.post("zoe", "set-active", organizationId=t.acme))[0] == 403
    assert t.roles() == {"olga": "owner"}


def test_members_are_listed_in_parts(team: Callable[..., Team]) -> None:
    t = team("anna", "mark")
    t.add("anna", "admin")
    t.add("mark", "member")
    part = t.get("olga", "list-members", sortBy="role", sortDirection="desc", limit="1", offset="1").json()
    assert ([member["role"] for member in part["members"]], part["total"]) == (["member"], 3)
    for wrong in ({"limit": "0"}, {"limit": "101"}, {"offset": "-1"}, {"sortBy": "token"}, {"sortDirection": "up"}):
        assert code(t.get("olga", "list-members", **wrong)) == (400, "VALIDATION_ERROR"), wrong


# ---------------------------------------------------------------- the organization


def test_details_are_kept_and_bounded(team: Callable[..., Team]) -> None:
    t = team()
    made = t.post("olga", "create", name="B", slug="bb", logo="https://x.example/l.png", metadata={"plan": "ü"})
    id = made.json()["id"]
    assert t.get("olga", "list").json()[1]["metadata"] == '{"plan":"ü"}'
    assert t.post("olga", "update", organizationId=id, data={"logo": None}).json()["metadata"] == {"plan": "ü"}
    for wrong in ({"metadata": {"x": "y" * 10_000}}, {"logo": "x" * 2001}, {"slug": "No Slug"}, {"name": " "}):
        refused = t.post("olga", "update", organizationId=id, data=wrong)
        assert code(refused) == (400, "VALIDATION_ERROR"), wrong
    assert t.get("olga", "list").json()[1]["metadata"] == '{"plan":"ü"}'
    assert t.post("olga", "delete", organizationId=id).status_code == 200
    assert t.rows(OrganizationDetails) == []


def test_an_organization_with_packages_stays(team: Callable[..., Team]) -> None:
    t = team()
    auth = t.service.auth
    names = {"name": "Flask", "normalized_name": "flask"}
    times = {"created_at": auth.clock.now(), "updated_at": auth.clock.now()}
    package = Package(id=auth.ids.new(), organization_id=UUID(t.acme), **names, **times)
    auth.transact(lambda db: db.add(package))
    assert code(t.post("olga", "delete", organizationId=t.acme)) == (409, "ORGANIZATION_HAS_PACKAGES")
    assert t.roles() == {"olga": "owner"}


def test_a_deleted_organization_is_nobodys_active_one(team: Callable[..., Team]) -> None:
    t = team("bob")
    t.add("bob", "member")
    t.post("bob", "set-active", organizationId=t.acme)
    assert {row.active_organization_id for row in t.rows(UserSession)} == {UUID(t.acme)}
    assert t.post("olga", "delete", organizationId=t.acme).status_code == 200
    assert {row.active_organization_id for row in t.rows(UserSession)} == {None}
    assert t.get("bob", "get-full-organization").json() is None


def test_the_words_of_every_refusal_are_there() -> None:
    """A code without words would be a KeyError, at the moment when somebody is refused."""
    import re
    from pathlib import Path

    folder = Path(members.__file__).parent
    text = "".join((folder / f"{name}.py").read_text() for name in ("organizations", "members", "invitations"))
    named = set(re.findall(r'"([A-Z]+_[A-Z_]+)"', text))
    own = {"ORGANIZATION_HAS_PACKAGES", "VALIDATION_ERROR", "INVALID_EMAIL"}
    assert named - own <= WORDS.keys()
    assert WORDS.keys() <= named, "words that nothing says"
