"""What the page organizations shows to take along is run by the tests of its recipe; and it holds on PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from shown import shown_and_not_run

from playbook.auth.organizations import Refused, members, set_role


def test_the_code_that_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    assert shown_and_not_run("organizations") == (2, [])


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_at_postgresql_s_own_isolation_the_second_owner_waits_and_stays(postgres_url: str, isolation: str) -> None:
    """Both have begun, and the first has left, before the second asks; then the first commits."""
    engine = sa.create_engine(postgres_url, isolation_level=isolation)
    members.create(engine)
    rows = [{"organization_id": "acme", "user_id": name, "role": "owner"} for name in ("ada", "bob")]
    with engine.begin() as db:
        db.execute(members.insert(), rows)
    bob_has_begun, ada_has_left = threading.Event(), threading.Event()

    def bob() -> str:
        try:
            with engine.begin() as db:
                db.execute(sa.select(members)).all()  # his snapshot, at REPEATABLE READ
                bob_has_begun.set()
                assert ada_has_left.wait(60)
                set_role(db, "acme", "bob", None, by="bob")
        except (Refused, sa.exc.OperationalError) as error:
            return type(error).__name__
        return "has left"

    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(bob)
        assert bob_has_begun.wait(60)
        with engine.begin() as db:
            set_role(db, "acme", "ada", None, by="ada")
            ada_has_left.set()
        assert told.result(60) == {"READ COMMITTED": "LastOwner", "REPEATABLE READ": "OperationalError"}[isolation]
    with engine.connect() as db:
        assert db.scalars(sa.select(members.c.user_id)).all() == ["bob"]
    engine.dispose()
