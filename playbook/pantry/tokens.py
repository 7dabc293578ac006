"""API tokens: how machines sign in. The recipe `auth/api_tokens` makes and finds them.

A token is made by somebody who has just signed in, is shown once, and may do what its scopes say, as far as its owner
may do it. No token makes, lists or revokes tokens, and none reaches `/api/auth`: who finds one in a log cannot make
more of it.

There is no allowance for wrong tokens. Nobody guesses 190 random bits, the checksum refuses what is no token without a
question to the database, and the limits of the network count these requests like all others.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, cast, get_args
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Response
from pydantic import BaseModel, BeforeValidator, Field
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from playbook.api.representations import JSON, Strict, gives_json, takes
from playbook.auth.api_tokens import add_token, revoke_tokens
from playbook.foundations.engines import Base
from playbook.foundations.write_skew import hold
from playbook.pantry.fields import Name
from playbook.pantry.http import CHALLENGE, FreshCaller, NewIds, Now, Read, SessionCaller, Transaction
from playbook.pantry.redaction import PREFIX
from playbook.schema.identity import User

MOST = 50  # tokens of one user: as many as somebody can keep an eye on
KEPT = timedelta(days=30)  # how long an expired token stays in the list, so that its owner sees why a job fails


class ApiToken(Base):
    """A token of the recipe's table, with a time. Its text is nowhere."""

    __tablename__ = "api_tokens"
    __table_args__ = (sa.Index(None, "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(sa.String(64))
    scopes: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]


TABLE = cast(sa.Table, ApiToken.__table__)


def revoke_all(db: orm.Session, user_id: UUID) -> None:
    """End all tokens of a user: after a new password, because whoever was in the account could have made one."""
    revoke_tokens(db, TABLE.c.user_id == user_id, TABLE)


def purge_tokens(db: orm.Session, now: datetime) -> None:
    """Delete what expired long ago."""
    revoke_tokens(db, TABLE.c.expires_at <= now - KEPT, TABLE)


# ---------------------------------------------------------------- the routes

router = APIRouter(dependencies=[Depends(gives_json)])
Scope = Literal[  # the actions of `policy`; a test compares them
    "organizations:read", "organizations:create", "organizations:write", "organizations:delete",
    "packages:read", "packages:create", "packages:write", "packages:publish",
    "packages:delete",
]  # fmt: skip


def whole(value: Any) -> Any:
    """187.0 as 187: in JSON they are one number, and JSON Schema calls both an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class NewToken(Strict):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20, description="what it may do, and nothing else")]
    days: Annotated[int, Field(ge=1, le=365, description="how long it lasts"), BeforeValidator(whole)]


class TokenOut(BaseModel):
    """A token as its owner sees it later."""

    id: UUID
    name: str
    scopes: Annotated[list[Scope], Field(max_length=len(get_args(Scope)))]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = Field(description="to the hour; null: never")


class MadeTokenOut(TokenOut):
    token: str = Field(description="shown now and never again")


class TokensOut(BaseModel):
    items: Annotated[list[TokenOut], Field(max_length=MOST * (KEPT.days + 1))]  # alive, or expired on one of these days


SHOWN = tuple(TokenOut.model_fields)
TOKENS = sa.select(*(getattr(ApiToken, name) for name in SHOWN))


def token_out(row: Sequence[Any]) -> TokenOut:
    """A row of TOKENS as it is shown."""
    values = dict(zip(SHOWN, row, strict=True))
    return TokenOut(**values | {"scopes": values["scopes"].split()})


def no_token() -> HTTPException:
    return HTTPException(404, "you have no such token")


@router.get("/tokens")
async def list_tokens(caller: SessionCaller, read: Read) -> TokensOut:
    """The caller's tokens, oldest first, with those that expired lately."""
    mine = TOKENS.where(ApiToken.user_id == caller.id).order_by(ApiToken.created_at, ApiToken.id)
    rows = await read(lambda db: db.execute(mine).all())
    return TokensOut(items=[token_out(row) for row in rows])


@router.post("/tokens", status_code=201, dependencies=[takes(JSON)])
def create_token(
    new: NewToken, response: Response, caller: FreshCaller, transact: Transaction, clock: Now, ids: NewIds
) -> MadeTokenOut:
    """A token, shown in this answer only. For somebody who has just signed in."""
    now = clock.now()
    made = TokenOut(
        id=ids.new(), name=new.name, scopes=sorted(set(new.scopes)), created_at=now,
        expires_at=now + timedelta(days=new.days), last_used_at=None,
    )  # fmt: skip

    def work(session: orm.Session) -> str:
        if not hold(session, User.id, caller.id, alone=True):  # one at a time, or two pass the limit together
            raise HTTPException(401, "your account was deleted", {"WWW-Authenticate": CHALLENGE})
        alive = sa.select(sa.func.count()).where(ApiToken.user_id == caller.id, ApiToken.expires_at > now)
        if (session.scalar(alive) or 0) >= MOST:
            raise HTTPException(409, f"you have {MOST} tokens: revoke one first")
        more = {"id": made.id, "created_at": now}
        return add_token(session, PREFIX, caller.id, made.name, made.scopes, made.expires_at, TABLE, **more)

    token = transact(work)
    response.headers["Location"] = f"/tokens/{made.id}"
    return MadeTokenOut(**made.model_dump(), token=token)


@router.get("/tokens/{token_id}")
async def read_token(token_id: UUID, caller: SessionCaller, read: Read) -> TokenOut:
    """One of the caller's tokens."""
    mine = TOKENS.where(ApiToken.user_id == caller.id, ApiToken.id == token_id)
    row = await read(lambda db: db.execute(mine).one_or_none())
    if row is None:
        raise no_token()
    return token_out(row)


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
def revoke_token(token_id: UUID, caller: SessionCaller, transact: Transaction) -> None:
    """End a token: its next request is refused. Unconditional, since nothing of it can have been changed meanwhile."""
    mine = sa.and_(TABLE.c.user_id == caller.id, TABLE.c.id == token_id)
    if not transact(lambda session: revoke_tokens(session, mine, TABLE)):
        raise no_token()
