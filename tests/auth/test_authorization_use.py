"""What the page authorization says of a row that moves between the decision and the act, on PostgreSQL."""

import pytest
import sqlalchemy as sa

from playbook.auth.authorization import decide, permitted

metadata = sa.MetaData()
documents = sa.Table("documents", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("team", sa.String))
members = sa.Table("members", metadata, sa.Column("team", sa.String), sa.Column("person", sa.String))
PERMITS = {"read": ["editor"], "delete": ["editor"]}
ADAS_TEAMS = sa.select(members.c.team).where(members.c.person == "ada")
RELATIONS = {"editor": documents.c.team.in_(ADAS_TEAMS)}


@pytest.mark.parametrize("again", [False, True])
def test_a_row_that_moved_is_deleted_unless_the_statement_asks_again(postgres_url: str, again: bool) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="READ COMMITTED")
    metadata.create_all(engine)
    with engine.begin() as db:
        db.execute(documents.insert().values(id=1, team="north"))
        db.execute(members.insert().values(team="north", person="ada"))
    thing = documents.c.id == 1
    with engine.begin() as db:
        assert decide(db, PERMITS, "delete", RELATIONS, thing)
        with engine.begin() as other:
            other.execute(documents.update().values(team="south"))
        gone = documents.delete().where(thing)
        if again:
            gone = gone.where(permitted(PERMITS, "delete", RELATIONS))
        assert db.execute(gone).rowcount == (0 if again else 1)
    engine.dispose()
