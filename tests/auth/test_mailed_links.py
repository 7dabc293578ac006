"""What the page "Mailed links" shows and does not run: the newsletter of *Take it with you*, the script of its form."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.auth.mailed_links import FORM, drop_links, links, new_link, take_link
from playbook.kit.course import Course

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


class Subscriber(Base):
    __tablename__ = "subscribers"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    confirmed: Mapped[bool] = mapped_column(default=False)


def shown() -> dict[str, Any]:
    """The functions of *Take it with you*, as they are printed there."""
    text = Course().get("mailed_links").source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    used = (Session, Subscriber, datetime, timedelta, drop_links, new_link, take_link)
    names: dict[str, Any] = {each.__name__: each for each in used}
    exec(block[1], names)
    return names


def test_a_subscriber_confirms_once_with_the_newest_link() -> None:
    names, engine = shown(), create_engine("sqlite://")
    Base.metadata.create_all(engine)
    links.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        ada = Subscriber(id=1, email="ada@example.com")
        session.add(ada)
        session.flush()
        old, new = names["ask"](session, ada, NOW), names["ask"](session, ada, NOW)
        assert not names["confirm"](session, old, NOW)
        assert not names["confirm"](session, new, NOW + timedelta(days=2))
        assert names["confirm"](session, new, NOW + timedelta(days=1))
        assert ada.confirmed
        assert not names["confirm"](session, new, NOW)


def test_a_link_does_not_prove_another_address_and_nobody_who_is_gone() -> None:
    names, engine = shown(), create_engine("sqlite://")
    Base.metadata.create_all(engine)
    links.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        ada, bob = Subscriber(id=1, email="ada@example.com"), Subscriber(id=2, email="bob@example.com")
        session.add_all([ada, bob])
        session.flush()
        first, second = names["ask"](session, ada, NOW), names["ask"](session, bob, NOW)
        ada.email = "ada@other.example"
        session.delete(bob)
        session.flush()
        assert [names["confirm"](session, token, NOW) for token in (first, second)] == [False, False]
        assert not ada.confirmed


BROWSER = """
const log = []
const button = {}
global.location = {hash: "#3f9a1c", pathname: "/confirm"}
global.history = {replaceState: (state, title, url) => log.push(["address bar", url])}
global.document = {querySelector: () => button, body: {}}
global.fetch = async (url, options) => { log.push(["sent", url, options, button.disabled]); return {ok: %s} }
SCRIPT
log.push(["pressed"])
button.onclick().then(() => console.log(JSON.stringify([...log, button.disabled, document.body.textContent])))
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("ok", "says"), [("true", "Done."), ("false", "This link is used or too old.")])
def test_the_script_of_the_form_sends_the_token_when_the_button_is_pressed(ok: str, says: str) -> None:
    script = re.search(r"<script>(.*?)</script>", FORM, re.DOTALL)
    assert script is not None
    program = (BROWSER % ok).replace("SCRIPT", script[1])
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True)
    headers = {"content-type": "application/json"}
    sent = {"method": "POST", "headers": headers, "body": '{"token":"3f9a1c"}'}
    expected = [["address bar", "/confirm"], ["pressed"], ["sent", "/confirm", sent, True], False, says]
    assert json.loads(done.stdout) == expected
