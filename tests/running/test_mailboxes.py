"""One mailbox has many addresses: how much mail strangers can send to it through our forms."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from playbook.auth.mail import Mail, MailType, MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.transactions import transaction
from playbook.kit.live import serving
from playbook.pantry import mailboxes
from playbook.pantry.app import pantry
from playbook.pantry.mailboxes import BURST, EVERY, PerMailbox, mailbox_of
from playbook.pantry.settings import Settings
from playbook.schema.identity import User

PASSWORD = "violet anchor rides a slow train"


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada+shop@Example.com", "ada@example.com"),
        ("ada+a+b@example.com", "ada@example.com"),
        ("a.d.a@example.com", "a.d.a@example.com"),
        ("a.d.a+x@gmail.com", "ada@gmail.com"),
        ("ada@googlemail.com", "ada@gmail.com"),
        ("+ada@example.com", "+ada@example.com"),
        ("ada+@example.com", "ada@example.com"),
    ],
)
def test_the_mailbox_of_an_address(address: str, mailbox: str) -> None:
    assert mailbox_of(address) == mailbox


def test_an_allowance_comes_back_with_time_and_what_is_proven_has_none() -> None:
    clock, inner = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), MemorySender()
    sender = PerMailbox(inner, clock, proven=lambda address: address == "ada+shop@example.com")

    def got(to: str, times: int = 1, type: MailType = "verify-email") -> int:
        before = len(inner.mails)
        for _ in range(times):
            sender.send(Mail(to, type, "s", "t"))
        return len(inner.mails) - before

    assert sum(got(f"ada+{number}@example.com") for number in range(20)) == BURST
    assert got("ada+reset@example.com", type="reset-password") == 0, "other kinds of mail count, too"
    assert (got("ada@example.com", 9), got("Ada+shop@example.com".lower(), 9)) == (9, 9)
    assert got("eve+1@example.com") == 1
    clock.advance(EVERY - timedelta(seconds=1))
    assert got("ada+x@example.com") == 0
    clock.advance(timedelta(seconds=1))
    assert got("ada+x@example.com", 2) == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "REMEMBERED", 100)
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    sender = PerMailbox(MemorySender(), clock, proven=lambda address: False)
    for number in range(500):
        sender.send(Mail(f"u{number}+x@example.com", "verify-email", "s", "t"))
    assert len(sender._whole_at) == 100


def test_twenty_sign_ups_for_one_mailbox_send_five_mails(url: str, clock: FixedClock) -> None:
    """Slowly enough for the limit of an address: 3 in 10 seconds."""
    settings, sender = Settings(environment="test", database_url=url), MemorySender()
    app = pantry(settings, clock=clock, sender=sender)
    auth = app.state.auth
    with serving(app) as client:
        client.headers["origin"] = settings.base_url
        for number in range(20):
            sent = {"name": "Ada", "email": f"victim+{number}@example.com", "password": PASSWORD}
            answer = client.post("/api/auth/sign-up/email", json=sent)
            assert answer.status_code == 200, answer.text
            clock.advance(timedelta(seconds=11))
        assert auth.postbox.drain(60)
        assert len(sender.mails) == BURST
        # The owner of the mailbox signs up all the same.
        client.post("/api/auth/sign-up/email", json={"name": "V", "email": "victim@example.com", "password": PASSWORD})
        assert auth.postbox.drain(60)
        assert sender.last("victim@example.com").type == "verify-email"
        # A proven spelling gets its reset, whatever strangers do to the others.
        proven = sa.update(User).where(User.email == "victim+7@example.com").values(email_verified=True)
        transaction(auth.engine, lambda session: session.execute(proven))
        client.post("/api/auth/request-password-reset", json={"email": "victim+7@example.com"})
        client.post("/api/auth/request-password-reset", json={"email": "victim+8@example.com"})
        assert auth.postbox.drain(60)
        resets = [mail.to for mail in sender.mails if mail.type == "reset-password"]
        assert resets == ["victim+7@example.com"]
