"""Record the plugin of organizations from the real better-auth on PostgreSQL, in the form of `record_extra.py`:

    python record_organizations.py [SECTION...] > organizations.json

Better Auth has one value for two things: the `id` of an invitation in JSON, and what its mail holds and `accept` takes.
They are recorded under two names, `INVITATION` and `INVITATION_TOKEN`, since a target may keep them apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone, also where another one is installed

from better_auth_server import running
from record_extra import Json, Recorder

from playbook.kit import postgres

NOTE = (
    "Exchanges of better-auth 1.7.25 with its plugin of organizations (Node 20, PostgreSQL 18), written by "
    "record_organizations.py from a running server. Not edited by hand."
)
ACME = "<ORG:acme>"


class OrganizationRecorder(Recorder):
    """Names the identifiers of organizations, members and invitations by the objects that they come in."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.tokens: dict[str, str] = {}  # placeholder of a mailed invitation: its value

    def real(self) -> dict[str, str]:
        return super().real() | self.tokens

    def mail(self, mail: Json) -> Json:
        if mail["type"] != "invitation":
            return super().mail(mail)
        token, shown = mail["token"], f"<INVITATION_TOKEN#{len(self.tokens) + 1}>"  # each mail may have one of its own
        self.tokens[shown] = token
        return {"type": mail["type"], "to": mail["to"], "url": self.masked(mail["url"].replace(token, shown))}

    def masked_json(self, value: Any, who: str, key: str = "") -> Any:
        if isinstance(value, dict) and isinstance(value.get("id"), str):
            if "slug" in value:
                self.placeholders.setdefault(value["id"], f"<ORG:{value['slug']}>")
            elif "inviterId" in value:
                self.name(value["id"], "INVITATION")
            elif {"organizationId", "userId", "role"} <= value.keys():
                self.name(value["id"], "MEMBER")
        if isinstance(value, str) and value in self.placeholders:
            return self.placeholders[value]
        return super().masked_json(value, who, key)

    # -- steps of several scenarios

    def people(self, *names: str) -> None:
        """Sign up; each is `name#1`. All but `mallory` prove their address."""
        for name in names:
            self.sign_up(name)
            if name != "mallory":
                number = self.counts["VERIFY_JWT"]
                self(f"{name} is verified", f"GET /verify-email?token=<VERIFY_JWT#{number}>")

    def post(self, label: str, path: str, body: Json, as_: str = "", **more: Any) -> None:
        self(label, f"POST /organization/{path}", body, as_=as_ and f"{as_}#1", **more)

    def get(self, label: str, path: str, as_: str = "") -> None:
        self(label, f"GET /organization/{path}", as_=as_ and f"{as_}#1")

    def found_acme(self) -> None:
        self.people("alice")
        self.post("alice founds acme", "create", {"name": "Acme", "slug": "acme"}, "alice")

    def joins(self, name: str, role: str, number: int) -> None:
        """Alice invites `name`, who has signed up; `number` counts the invitations of the scenario."""
        invited = {"email": f"{name}@example.com", "role": role}
        self.post(f"alice invites {name}", "invite-member", invited, "alice")
        self.post(f"{name} accepts", "accept-invitation", {"invitationId": f"<INVITATION_TOKEN#{number}>"}, name)


# ---------------------------------------------------------------- what is recorded


def the_organization(ask: OrganizationRecorder) -> None:
    new = {"name": "Acme", "slug": "acme"}
    ask.post("create, signed out", "create", new)
    ask.get("list, signed out", "list")
    ask.people("alice", "bob")
    ask.get("list: none yet", "list", "alice")
    ask.get("get-full-organization: none is active", "get-full-organization", "alice")
    ask.get("get-active-member: none is active", "get-active-member", "alice")
    ask.post("check-slug, signed out", "check-slug", {"slug": "acme"})
    ask.post("check-slug: free", "check-slug", {"slug": "acme"}, "alice")
    ask.post("check-slug: no slug", "check-slug", {}, "alice")
    ask.post("create: no name", "create", {"slug": "acme"}, "alice")
    ask.post("create: empty slug", "create", {"name": "Acme", "slug": ""}, "alice")
    ask.post("create: foreign Origin", "create", new, "alice", origin="http://evil.example")
    ask.post("create", "create", new, "alice")
    ask("the new one is active", "GET /get-session", as_="alice#1")
    ask.post("check-slug: taken", "check-slug", {"slug": "acme"}, "bob")
    ask.post("create: slug taken", "create", new, "bob")
    more = {"name": "Initech", "slug": "initech", "logo": "https://initech.example/logo.png", "metadata": {"plan": "x"}}
    ask.post("create: logo, metadata, another stays active", "create",
             more | {"keepCurrentActiveOrganization": True}, "alice")  # fmt: skip
    ask("acme is still active", "GET /get-session", as_="alice#1")
    ask.get("list", "list", "alice")
    ask.get("list of somebody else", "list", "bob")
    ask.get("get-full-organization", "get-full-organization", "alice")
    ask.get("get-full-organization by id", "get-full-organization?organizationId=<ORG:initech>", "alice")
    ask.get("get-full-organization by slug", "get-full-organization?organizationSlug=acme", "alice")
    ask.get("get-full-organization: no such", "get-full-organization?organizationSlug=none", "alice")
    ask("acme stays active", "GET /get-session", as_="alice#1")
    ask.get("get-full-organization: not a member", "get-full-organization?organizationSlug=acme", "bob")
    ask.post("set-active by slug", "set-active", {"organizationSlug": "initech"}, "alice", who="alice")
    ask.post("set-active by id", "set-active", {"organizationId": ACME}, "alice", who="alice")
    ask.post("set-active: nothing given", "set-active", {}, "alice", who="alice")
    ask.post("set-active: no such slug", "set-active", {"organizationSlug": "none"}, "alice")
    ask.post("set-active: not a member", "set-active", {"organizationId": ACME}, "bob")
    ask.post("set-active: null", "set-active", {"organizationId": None}, "alice", who="alice")
    ask.post("set-active: null again", "set-active", {"organizationId": None}, "alice")
    ask("none is active", "GET /get-session", as_="alice#1")
    ask.post("set-active, signed out", "set-active", {"organizationId": ACME})
    ask.post("update", "update", {"organizationId": ACME, "data": {"name": "Acme Corp"}}, "alice")
    ask.post("update: slug, logo, metadata", "update",
             {"organizationId": "<ORG:initech>", "data": {"slug": "initrode", "logo": None, "metadata": {"plan": "y"}}},
             "alice")  # fmt: skip
    ask.post("update: slug taken", "update", {"organizationId": ACME, "data": {"slug": "initrode"}}, "alice")
    ask.post("update: the own slug", "update", {"organizationId": ACME, "data": {"slug": "acme"}}, "alice")
    ask.post("update: none is active", "update", {"data": {"name": "x"}}, "alice")
    ask.post("update: no data", "update", {"organizationId": ACME}, "alice")
    ask.post("update: not a member", "update", {"organizationId": ACME, "data": {"name": "x"}}, "bob")
    ask.post("update, signed out", "update", {"organizationId": ACME, "data": {"name": "x"}})
    ask.post("delete: not a member", "delete", {"organizationId": ACME}, "bob")
    ask.post("delete, signed out", "delete", {"organizationId": ACME})
    ask.post("delete: no id", "delete", {}, "alice")
    ask.post("set-active before it goes", "set-active", {"organizationId": ACME}, "alice", who="alice")
    ask.post("delete", "delete", {"organizationId": ACME}, "alice")
    ask("deleted: none is active", "GET /get-session", as_="alice#1")
    ask.post("delete again", "delete", {"organizationId": ACME}, "alice")
    ask.get("list: one is left", "list", "alice")


def invitations(ask: OrganizationRecorder) -> None:
    ask.found_acme()
    ask.people("bob", "carol", "mallory")
    bob = {"email": "bob@example.com", "role": "member"}
    ask.post("invite: signed out", "invite-member", bob)
    ask.post("invite: none is active", "invite-member", bob, "bob")
    ask.post("invite: not a member", "invite-member", bob | {"organizationId": ACME}, "mallory")
    ask.post("invite: no address", "invite-member", bob | {"email": "bad"}, "alice")
    ask.post("invite: unknown role", "invite-member", bob | {"role": "king"}, "alice")
    ask.post("invite: no role", "invite-member", {"email": "bob@example.com"}, "alice")
    ask.post("invite: empty role", "invite-member", bob | {"role": ""}, "alice")
    ask.post("invite: a member", "invite-member", bob | {"email": "alice@example.com"}, "alice")
    ask.post("invite", "invite-member", bob | {"email": "Bob@Example.com"}, "alice")
    ask.post("invite again", "invite-member", bob, "alice")
    ask.get("list-invitations", "list-invitations", "alice")
    ask.get("list-invitations, signed out", "list-invitations")
    ask.get("list-invitations: none is active", "list-invitations", "mallory")
    ask.get("list-invitations: not a member", f"list-invitations?organizationId={ACME}", "mallory")
    ask.get("list-user-invitations", "list-user-invitations", "bob")
    ask.get("list-user-invitations: none", "list-user-invitations", "carol")
    ask.get("list-user-invitations: not verified", "list-user-invitations", "mallory")
    ask.get("list-user-invitations: signed out", "list-user-invitations")
    ask.get("list-user-invitations: of another", "list-user-invitations?email=alice@example.com", "bob")
    mine = "get-invitation?id=<INVITATION_TOKEN#1>"
    ask.get("get-invitation", mine, "bob")
    ask.get("get-invitation, signed out", mine)
    ask.get("get-invitation: somebody else's", mine, "carol")
    ask.get("get-invitation: no such", "get-invitation?id=none", "bob")
    ask.get("get-invitation: no id", "get-invitation", "bob")
    token = {"invitationId": "<INVITATION_TOKEN#1>"}
    ask.post("accept, signed out", "accept-invitation", token)
    ask.post("accept: somebody else's", "accept-invitation", token, "carol")
    ask.post("accept: no such", "accept-invitation", {"invitationId": "none"}, "bob")
    ask.post("accept: no id", "accept-invitation", {}, "bob")
    ask.post("reject: somebody else's", "reject-invitation", token, "carol")
    ask.post("cancel: not a member", "cancel-invitation", {"invitationId": "<INVITATION#1>"}, "carol")
    ask.post("accept", "accept-invitation", token, "bob")
    ask("accepted: it is active", "GET /get-session", as_="bob#1")
    ask.post("accept again", "accept-invitation", token, "bob")
    ask.post("reject after accepting", "reject-invitation", token, "bob")
    ask.get("get-invitation: accepted", mine, "bob")
    ask.post("a member may not invite", "invite-member", {"email": "x@example.com", "role": "member"}, "bob")
    ask.get("a member may not list invitations", "list-invitations", "bob")
    ask.post("invite carol", "invite-member", {"email": "carol@example.com", "role": "admin"}, "alice")
    ask.post("a member may not cancel", "cancel-invitation", {"invitationId": "<INVITATION#2>"}, "bob")
    ask.post("cancel, signed out", "cancel-invitation", {"invitationId": "<INVITATION#2>"})
    ask.post("cancel: no such", "cancel-invitation", {"invitationId": "none"}, "alice")
    ask.post("cancel", "cancel-invitation", {"invitationId": "<INVITATION#2>"}, "alice")
    ask.post("accept what was canceled", "accept-invitation", {"invitationId": "<INVITATION_TOKEN#2>"}, "carol")
    ask.post("invite carol once more", "invite-member", {"email": "carol@example.com", "role": "admin"}, "alice")
    ask.post("resend", "invite-member", {"email": "carol@example.com", "role": "admin", "resend": True}, "alice")
    ask.post("reject", "reject-invitation", {"invitationId": "<INVITATION_TOKEN#4>"}, "carol")
    ask.post("accept what was rejected", "accept-invitation", {"invitationId": "<INVITATION_TOKEN#4>"}, "carol")
    ask.post("invite mallory", "invite-member", {"email": "mallory@example.com", "role": "member"}, "alice")
    token = {"invitationId": "<INVITATION_TOKEN#5>"}
    ask.get("get-invitation: not verified", "get-invitation?id=<INVITATION_TOKEN#5>", "mallory")
    ask.post("accept: not verified", "accept-invitation", token, "mallory")
    ask.post("reject: not verified", "reject-invitation", token, "mallory")
    ask.get("list-invitations: all of them", "list-invitations", "alice")
    ask.get("get-full-organization: members and invitations", "get-full-organization", "alice")
    ask.get("get-full-organization: a member sees no invitations", "get-full-organization", "bob")


def unverified(ask: OrganizationRecorder) -> None:
    """As the plugin comes: whoever has the identifier and says that the address is theirs."""
    ask.found_acme()
    ask.people("mallory")
    ask.post("invite mallory", "invite-member", {"email": "mallory@example.com", "role": "member"}, "alice")
    ask.post("accept: not verified", "accept-invitation", {"invitationId": "<INVITATION_TOKEN#1>"}, "mallory")


def members(ask: OrganizationRecorder) -> None:
    ask.found_acme()
    ask.people("bob", "carol", "dave")
    ask.joins("bob", "admin", 1)
    ask.joins("carol", "member", 2)
    ask.get("list-members", "list-members", "alice")
    ask.get("list-members as a member", f"list-members?organizationId={ACME}", "carol")
    ask.get("list-members by slug", "list-members?organizationSlug=acme", "bob")
    ask.get("list-members: no such slug", "list-members?organizationSlug=none", "bob")
    ask.get("list-members: none is active", "list-members", "dave")
    ask.get("list-members: not a member", f"list-members?organizationId={ACME}", "dave")
    ask.get("list-members, signed out", f"list-members?organizationId={ACME}")
    ask.get("get-active-member", "get-active-member", "carol")
    ask.get("get-active-member-role", "get-active-member-role", "bob")
    ask.get("get-active-member-role of another", "get-active-member-role?userId=<USER_ID:carol>", "bob")
    ask.get("get-active-member, signed out", "get-active-member")
    role = "update-member-role"
    ask.post("role: by a member", role, {"memberId": "<MEMBER#3>", "role": "admin"}, "carol")
    ask.post("role: of an owner, by an admin", role, {"memberId": "<MEMBER#1>", "role": "member"}, "bob")
    ask.post("role: owner, by an admin", role, {"memberId": "<MEMBER#3>", "role": "owner"}, "bob")
    ask.post("role: unknown", role, {"memberId": "<MEMBER#3>", "role": "king"}, "alice")
    ask.post("role: empty", role, {"memberId": "<MEMBER#3>", "role": ""}, "alice")
    ask.post("role: no such member", role, {"memberId": "none", "role": "admin"}, "alice")
    ask.post("role: not a member", role, {"memberId": "<MEMBER#3>", "role": "admin", "organizationId": ACME}, "dave")
    ask.post("role: none is active", role, {"memberId": "<MEMBER#3>", "role": "admin"}, "dave")
    ask.post("role, signed out", role, {"memberId": "<MEMBER#3>", "role": "admin"})
    ask.post("role: the only owner's own", role, {"memberId": "<MEMBER#1>", "role": "member"}, "alice")
    ask.post("role: by an admin", role, {"memberId": "<MEMBER#3>", "role": "admin"}, "bob")
    ask.post("role: in a list", role, {"memberId": "<MEMBER#3>", "role": ["member"]}, "alice")
    ask.post("invite an owner, as admin", "invite-member", {"email": "dave@example.com", "role": "owner"}, "bob")
    ask.post("remove: by a member", "remove-member", {"memberIdOrEmail": "bob@example.com"}, "carol")
    ask.post("remove: an owner, by an admin", "remove-member", {"memberIdOrEmail": "<MEMBER#1>"}, "bob")
    ask.post("remove: the only owner", "remove-member", {"memberIdOrEmail": "<MEMBER#1>"}, "alice")
    ask.post("remove: no such member", "remove-member", {"memberIdOrEmail": "none"}, "alice")
    ask.post("remove: no such address", "remove-member", {"memberIdOrEmail": "dave@example.com"}, "alice")
    ask.post("remove, signed out", "remove-member", {"memberIdOrEmail": "bob@example.com"})
    ask.post("leave: the only owner", "leave", {"organizationId": ACME}, "alice")
    ask.post("leave: not a member", "leave", {"organizationId": ACME}, "dave")
    ask.post("leave, signed out", "leave", {"organizationId": ACME})
    ask.post("remove by address", "remove-member", {"memberIdOrEmail": "carol@example.com"}, "bob")
    ask.get("removed: get-full-organization", "get-full-organization", "carol")
    ask.get("removed: list-members", f"list-members?organizationId={ACME}", "carol")
    ask.post("another owner", role, {"memberId": "<MEMBER#2>", "role": "owner"}, "alice")
    ask.post("now the first may leave", "leave", {"organizationId": ACME}, "alice")
    ask("left: none is active", "GET /get-session", as_="alice#1")
    ask.get("left: list", "list", "alice")
    ask.post("the new owner may not", "leave", {"organizationId": ACME}, "bob")
    ask.get("who is left", "list-members", "bob")


def permissions(ask: OrganizationRecorder) -> None:
    ask.found_acme()
    ask.people("bob", "carol", "dave")
    ask.joins("bob", "admin", 1)
    ask.joins("carol", "member", 2)
    statements = {
        "organization": ("update", "delete"),
        "member": ("create", "update", "delete"),
        "invitation": ("create", "cancel"),
    }
    for who in ("alice", "bob", "carol"):
        for resource, actions in statements.items():
            for action in actions:
                ask.post(f"{who}: {resource} {action}", "has-permission", {"permissions": {resource: [action]}}, who)
    both = {"member": ["create", "update"], "invitation": ["cancel"]}
    ask.post("several at once", "has-permission", {"permissions": both}, "bob")
    ask.post("one of several lacks", "has-permission", {"permissions": both | {"organization": ["delete"]}}, "bob")
    ask.post("an unknown resource", "has-permission", {"permissions": {"package": ["delete"]}}, "alice")
    ask.post("an unknown action", "has-permission", {"permissions": {"member": ["rename"]}}, "alice")
    ask.post("no actions", "has-permission", {"permissions": {"member": []}}, "carol")
    ask.post("no permissions", "has-permission", {}, "alice")
    ask.post("has-permission: another organization", "has-permission",
             {"organizationId": ACME, "permissions": {"member": ["create"]}}, "dave")  # fmt: skip
    ask.post("has-permission: none is active", "has-permission", {"permissions": {"member": ["create"]}}, "dave")
    ask.post("has-permission, signed out", "has-permission", {"permissions": {"member": ["create"]}})
    ask.post("admin: update", "update", {"data": {"name": "Acme Corp"}}, "bob")
    ask.post("member: update", "update", {"data": {"name": "x"}}, "carol")
    ask.post("admin: delete", "delete", {"organizationId": ACME}, "bob")
    ask.post("member: delete", "delete", {"organizationId": ACME}, "carol")


SECTIONS: dict[int, tuple[str, str, Callable[[OrganizationRecorder], None]]] = {
    40: ("K", "Organizations", the_organization),
    41: ("K", "Invitations", invitations),
    42: ("J", "An invitation without proof of the address", unverified),
    43: ("K", "Members", members),
    44: ("K", "Permissions", permissions),
}


def recorded(chosen: list[int]) -> list[Json]:
    exchanges: list[Json] = []
    with postgres.server() as server:
        for section in chosen:
            configuration, title, scenario = SECTIONS[section]
            with postgres.database(server) as url, running(configuration, url) as auth:
                recorder = OrganizationRecorder(auth, configuration, section, title)
                scenario(recorder)
                exchanges += recorder.exchanges
    return exchanges


if __name__ == "__main__":
    asked = [int(number) for number in sys.argv[1:]] or list(SECTIONS)
    print(json.dumps({"source": NOTE, "exchanges": recorded(asked)}, indent=1, ensure_ascii=False))
