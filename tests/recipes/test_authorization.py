"""What the recipe promises, with a shop, on SQLite: a list and a single thing never disagree; deny by default.

Needs pytest, hypothesis, sqlalchemy and fastapi.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from starlette.exceptions import HTTPException

from playbook.auth.authorization import decide, matrix, permitted, refuse_unless


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None]
    branch_id: Mapped[int]
    refunded: Mapped[bool] = mapped_column(default=False)


class Clerk(Base):
    __tablename__ = "clerks"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    branch_id: Mapped[int]


PERMITS = {"read": ["buyer", "clerk"], "refund": ["clerk"]}


def relations(user_id: int) -> dict[str, sa.ColumnElement[bool]]:
    works = sa.select(Clerk.branch_id).where(Clerk.user_id == user_id)
    return {"buyer": Order.user_id == user_id, "clerk": Order.branch_id.in_(works)}


def refund(db: Session, user_id: int, order_id: int) -> None:
    thing = Order.id == order_id
    refuse_unless(decide(db, PERMITS, "refund", relations(user_id), thing))
    db.get_one(Order, order_id).refunded = True


ADA, GUS, RITA, MALLORY = 1, 2, 3, 4  # Ada buys; Rita is a clerk of branch 1, Mallory of branch 2


@pytest.fixture
def db() -> Iterator[Session]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Clerk(user_id=RITA, branch_id=1), Clerk(user_id=MALLORY, branch_id=2)])
        session.add_all([Order(id=7, user_id=ADA, branch_id=1), Order(id=8, user_id=None, branch_id=2)])
        session.commit()
        yield session
    engine.dispose()


def said(db: Session, user_id: int, order_id: int) -> Any:
    try:
        refund(db, user_id, order_id)
    except HTTPException as refused:
        return refused.status_code
    return "refunded"


def test_who_may_refund(db: Session) -> None:
    wanted = {ADA: 403, GUS: 404, RITA: "refunded", MALLORY: 404}
    assert {user: said(db, user, 7) for user in wanted} == wanted
    assert {said(db, user, 999) for user in wanted} == {404}
    assert db.get_one(Order, 7).refunded


def test_a_hidden_thing_and_a_missing_one_are_told_apart_by_nothing(db: Session) -> None:
    hidden, missing = Order.id == 7, Order.id == 999
    for action in ("read", "refund", "sell"):
        assert decide(db, PERMITS, action, relations(MALLORY), hidden) is None
        assert decide(db, PERMITS, action, relations(MALLORY), missing) is None
    with pytest.raises(HTTPException) as refused:
        refuse_unless(None)
    assert refused.value.status_code == 404


@pytest.mark.parametrize(("decision", "status"), [(None, 404), (False, 403), (True, None)])
def test_refusals(decision: bool | None, status: int | None) -> None:
    try:
        refuse_unless(decision)
        found = None
    except HTTPException as refused:
        found = refused.status_code
    assert found == status


ACTIONS = ("read", "write", "sell")
RELATIONS = ("buyer", "clerk", "anybody", "nobody")
policies = st.dictionaries(st.sampled_from(ACTIONS), st.sets(st.sampled_from(RELATIONS)))


@given(policies, st.sampled_from([ADA, GUS, RITA, MALLORY]), st.sampled_from(ACTIONS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_list_and_a_single_thing_never_disagree(db: Session, permits: Any, user: int, action: str) -> None:
    """And both say what the relations of the row say, one by one; a NULL in a column permits nothing."""
    stands = {**relations(user), "anybody": sa.true(), "nobody": sa.false()}
    holds = {name: set(db.scalars(sa.select(Order.id).where(clause))) for name, clause in stands.items()}

    def wanted(what: str) -> set[int]:
        return set().union(*(holds[name] for name in permits.get(what, ())))

    listed = set(db.scalars(sa.select(Order.id).where(permitted(permits, action, stands))))
    assert listed == wanted(action)
    for number in (7, 8):
        decision = decide(db, permits, action, stands, Order.id == number)
        assert decision == ((number in listed) if number in wanted("read") else None)


def test_what_is_not_listed_nobody_may(db: Session) -> None:
    everything = {"buyer": sa.true(), "clerk": sa.true()}
    for permits in ({}, {"read": ["buyer"]}, {"read": ["buyer"], "refund": []}):
        assert db.scalars(sa.select(Order.id).where(permitted(permits, "refund", everything))).all() == []
        assert not decide(db, permits, "refund", everything, Order.id == 7)


def test_a_relation_that_is_misspelled_is_loud(db: Session) -> None:
    with pytest.raises(KeyError, match="clrek"):
        permitted({"read": ["clrek"]}, "read", relations(ADA))


def test_of_a_list_that_selects_from_an_alias_sqlalchemy_warns(db: Session) -> None:
    """The condition is about the table that the relation names: the alias is paired with each of its rows."""
    other = aliased(Order)
    listed = sa.select(other.id).where(permitted(PERMITS, "read", relations(ADA)))
    with pytest.warns(sa.exc.SAWarning, match="cartesian product"):
        assert set(db.scalars(listed)) == {7, 8}, "it is safe now: the page warns of it"


def test_a_condition_that_several_rows_fulfil_decides_nothing(db: Session) -> None:
    with pytest.raises(sa.exc.MultipleResultsFound):
        decide(db, PERMITS, "read", {"buyer": sa.true(), "clerk": sa.true()}, Order.id > 0)


def test_one_decision_is_one_statement(db: Session) -> None:
    sent: list[str] = []
    sa.event.listen(db.get_bind(), "before_cursor_execute", lambda *asked: sent.append(asked[2]))
    decide(db, PERMITS, "refund", relations(RITA), Order.id == 7)
    assert len(sent) == 1


def test_a_role_that_has_gone_is_gone_in_the_next_transaction(db: Session) -> None:
    assert said(db, RITA, 7) == "refunded"
    db.execute(sa.delete(Clerk).where(Clerk.user_id == RITA))
    db.commit()
    assert said(db, RITA, 7) == 404


def shop(db: Session) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.post("/orders/{order_id}/refund")
    def post_refund(order_id: int, user: int = Header()) -> None:
        refund(db, user, order_id)

    return app


def test_the_matrix_asks_each_route_for_each_person_and_thing(db: Session) -> None:
    asked = []

    def ask(route: str, order_id: int, user: str) -> str:
        asked.append((route, order_id, user))
        return str(said(db, int(user), order_id))

    users = [str(user) for user in (ADA, GUS, RITA, MALLORY)]
    route = "POST /orders/{order_id}/refund"
    found = matrix(shop(db), ask, users, [7, 8, 999], [route])
    assert found == {
        (route, 7): ["403", "404", "refunded", "404"],
        (route, 8): ["404", "404", "404", "refunded"],
        (route, 999): ["404"] * 4,
    }
    assert len(asked) == 12


def test_a_route_without_a_request_and_a_request_without_a_route_are_found(db: Session) -> None:
    app, route = shop(db), "POST /orders/{order_id}/refund"
    inside = APIRouter(prefix="/admin")
    inside.add_api_route("/orders", lambda: None, methods=["DELETE"])
    app.include_router(inside)

    def never(route: str, thing: Any, person: str) -> str:
        raise AssertionError("nothing is sent before all routes are known")

    with pytest.raises(ValueError, match=r"DELETE /admin/orders$"):
        matrix(app, never, ["1"], [7], [route])
    with pytest.raises(ValueError, match="GET /gone"):
        matrix(app, never, ["1"], [7], [route, "DELETE /admin/orders", "GET /gone"])
