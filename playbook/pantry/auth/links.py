"""The links of mails, all behind one route: an address is verified, a change of it approved or made."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import orm

from playbook.foundations.deny_by_default import anyone
from playbook.pantry.auth.account_changes import APPROVE, CHANGE, approve_change, make_change
from playbook.pantry.auth.sign_up import VERIFY, Link, confirm_address, find_link, link_refused
from playbook.pantry.auth.wire import Service
from playbook.schema.identity import User

link_routes = APIRouter(prefix="/api/auth")
LINKS = {VERIFY: confirm_address, APPROVE: approve_change, CHANGE: make_change}  # what a mailed link does, by purpose


@link_routes.get("/verify-email", dependencies=[Depends(anyone)], response_model=None)
def verify_email(request: Request, response: Response, auth: Service, token: str, callbackURL: str = "") -> Any:
    """The link of a mail: what its purpose does, unless it is unknown or too old."""

    def read(db: orm.Session) -> tuple[Link | None, User | None]:
        row = find_link(db, token, *LINKS)
        return row, db.get(User, row.user_id) if row else None

    row, user = auth.transact(read)
    if row is None or user is None:
        return link_refused(callbackURL, "INVALID_TOKEN")
    if row.expires_at <= auth.clock.now():
        return link_refused(callbackURL, "TOKEN_EXPIRED")
    return LINKS[row.purpose](request, response, auth, token, row, user, callbackURL)
