"""The queue of mails over real SMTP, as Pantry uses it: no answer waits, resets go first, no secret is in the log."""

import logging
import smtplib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fastapi import FastAPI

from playbook.auth.mail import Mail, MemorySender
from playbook.auth.mail_queue import MailQueue, backoff
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.live import serving
from playbook.kit.smtp import mail_server
from playbook.pantry.mail_senders import BoundedSender as SmtpSender
from playbook.pantry.postbox import URGENT, Postbox

FROM = "Pantry <pantry@pantry.example>"
TOKEN = "reset_7hQe4TtN1m"
URL = f"https://pantry.example/reset?token={TOKEN}"


def mail(to: str = "ada@example.com", subject: str = "A new password?", **more: object) -> Mail:
    values = {"text": f"Open {URL}\n", "url": URL, "token": TOKEN} | more
    return Mail(to, "reset-password", subject, **values)  # type: ignore[arg-type]


@contextmanager
def posting(sender: object, **options: object) -> Iterator[Postbox]:
    """A postbox that is closed afterwards, and that does not really pause."""
    postbox = Postbox(sender, **{"pause": lambda attempt: 0.0} | options)  # type: ignore[arg-type]
    try:
        yield postbox
    finally:
        postbox.close(timeout=0)


class Failing:
    """Raises what it is given, in turn, and then accepts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls, self.called = list(errors), 0, threading.Event()

    def send(self, mail: Mail) -> None:
        self.calls += 1
        self.called.set()
        if self.errors:
            raise self.errors.pop(0)


class Held:
    """Accepts nothing before `go_on`."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()

    def send(self, mail: Mail) -> None:
        self.entered.release()
        assert self.go_on.wait(60)
        self.mails.append(mail)


@pytest.mark.proves("RFC 5321 4.2.1")
@pytest.mark.parametrize(("command", "code"), [("DATA", 451), ("RCPT", 450), ("MAIL", 421), ("DATA", 452)])
def test_a_temporary_refusal_is_tried_again(command: str, code: int, clock: FixedClock) -> None:
    asked: list[int] = []

    def pause(attempt: int) -> float:
        asked.append(attempt)
        return 0.0

    with mail_server({command: [f"{code} later"] * 3}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock), pause=pause) as postbox:
            sent = mail()
            postbox.post(sent)
            assert postbox.drain()
        assert (postbox.sent, postbox.dropped) == (1, 0)
    assert [message["Message-ID"] for message in mails.messages] == [f"<{sent.id}@pantry.example>"]
    assert asked == [1, 2, 3], "a pause after each attempt that failed"


@pytest.mark.proves("RFC 5321 4.2.1")
@pytest.mark.parametrize(("command", "code"), [("DATA", 554), ("RCPT", 550), ("MAIL", 552)])
def test_a_final_refusal_is_not_tried_again(command: str, code: int, clock: FixedClock) -> None:
    with mail_server({command: [f"{code} never"]}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
            assert (postbox.sent, postbox.dropped) == (0, 1)
            assert mails.messages == []
            postbox.post(mail())  # the server would take this one
            assert postbox.drain()
        assert (postbox.sent, len(mails.messages)) == (1, 1)


def test_what_was_accepted_is_not_sent_twice(clock: FixedClock) -> None:
    with mail_server({"QUIT": ["421 too busy to say goodbye"]}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
        assert (postbox.sent, len(mails.messages)) == (1, 1)


@pytest.mark.proves("ASVS 6.3.8")
def test_an_answer_does_not_wait_for_the_mail_server(clock: FixedClock) -> None:
    with mail_server(hold=True) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        app = FastAPI()

        @app.post("/forgot")
        def forgot(email: str) -> dict[str, str]:
            if email == "ada@example.com":
                postbox.post(mail())
            return {"message": "on its way"}

        with serving(app) as client:
            for _ in range(60):  # more than there are threads
                known, unknown = (client.post(f"/forgot?email={name}@example.com") for name in ("ada", "bob"))
                assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
                assert known.headers.keys() == unknown.headers.keys()
            mails.wait_held(1)
            assert mails.messages == [], "all were answered before the first mail was accepted"
            mails.release()
            assert postbox.drain()
        assert len(mails.inbox("ada@example.com")) == 60


def test_a_full_queue_drops_and_never_waits(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    with posting(sender, capacity=5) as postbox:
        for number in range(50):
            postbox.post(mail(f"ada@{number}.example"))
        assert postbox.dropped == 45
        assert caplog.text.count("dropped") == 45
        assert postbox.full
        sender.go_on.set()
        assert postbox.drain()
        assert (postbox.sent, len(sender.mails)) == (5, 5)
        assert not postbox.full
        postbox.post(mail())
        assert postbox.drain()
        assert (postbox.sent, postbox.dropped) == (6, 45), "there is room again"


def test_one_thread_keeps_the_order_and_four_work_at_once() -> None:
    sender = MemorySender()
    with posting(sender, threads=1) as postbox:
        for number in range(100):
            postbox.post(mail(subject=str(number)))
        assert postbox.drain()
    assert [made.subject for made in sender.mails] == [str(number) for number in range(100)]
    held = Held()
    with posting(held, threads=4) as postbox:
        for number in range(6):
            postbox.post(mail(f"ada@{number}.example"))
        assert all(held.entered.acquire(timeout=60) for _ in range(4))
        assert not held.entered.acquire(blocking=False)
        held.go_on.set()
        assert postbox.drain()
    assert len(held.mails) == 6


def test_posting_from_many_threads_loses_nothing() -> None:
    sender = MemorySender()
    with posting(sender, threads=3, capacity=10_000) as postbox:
        threads = [threading.Thread(target=lambda: [postbox.post(mail()) for _ in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert postbox.drain(30)
        assert (postbox.sent, postbox.dropped, len(sender.mails)) == (1600, 0, 1600)


def test_drain_says_when_it_gave_up_waiting() -> None:
    sender = Held()
    with posting(sender) as postbox:
        assert postbox.drain(timeout=0)
        postbox.post(mail())
        assert not postbox.drain(timeout=0.01)
        sender.go_on.set()
        assert postbox.drain()


def test_closing_sends_what_is_queued_and_takes_no_more(caplog: pytest.LogCaptureFixture) -> None:
    sender = MemorySender()
    postbox = Postbox(sender)
    for _ in range(20):
        postbox.post(mail())
    assert postbox.close()
    assert len(sender.mails) == 20
    postbox.post(mail())
    assert (len(sender.mails), postbox.dropped) == (20, 1)
    assert "dropped, closed" in caplog.text
    assert postbox.close(), "twice is once"


def test_closing_says_what_it_had_to_leave(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    postbox = Postbox(sender, threads=1)
    for _ in range(4):
        postbox.post(mail())
    assert sender.entered.acquire(timeout=60)
    assert not postbox.close(timeout=0.01)
    assert caplog.text.count("lost, the service stops") == 3
    assert "still being sent: 1" in caplog.text
    sender.go_on.set()
    assert postbox.drain()
    assert (postbox.sent, postbox.dropped) == (1, 3), "only the one that was under way goes out"


def test_closing_does_not_wait_for_pauses() -> None:
    sender = Failing(*[smtplib.SMTPServerDisconnected()] * 100)
    postbox = Postbox(sender)  # with real pauses: at least fifteen seconds a mail
    for _ in range(5):
        postbox.post(mail())
    assert sender.called.wait(60)
    assert postbox.close(timeout=60)
    assert postbox.dropped == 5
    assert sender.calls <= 10, "one attempt, and a last one at the stop"


def test_attempts_are_bounded_and_pauses_grow() -> None:
    sender = Failing(*[smtplib.SMTPServerDisconnected()] * 100)
    with posting(sender, attempts=9) as postbox:
        postbox.post(mail())
        assert postbox.drain()
    assert (sender.calls, postbox.dropped) == (9, 1)
    longest = [min(300, 4**n) for n in range(8)]
    for _ in range(100):
        assert all(most / 2 <= backoff(n) <= most for n, most in enumerate(longest, 1))


def test_a_bug_in_a_sender_costs_one_mail_only(caplog: pytest.LogCaptureFixture) -> None:
    sender = Failing(TypeError("a bug"))
    with posting(sender) as postbox:
        postbox.post(mail())
        postbox.post(mail())
        assert postbox.drain()
        assert (postbox.sent, postbox.dropped, sender.calls) == (1, 1, 2)
    assert "TypeError" in caplog.text


# ---------------------------------------------------------------- nobody's mail waits for somebody else's


def verification(to: str) -> Mail:
    return Mail(to, "verify-email", "Confirm your address", f"Open {URL}\n", URL, TOKEN)


def test_a_retry_gives_its_thread_back(clock: FixedClock) -> None:
    """Six sign-ups at a server that says 451, with real pauses, and the reset goes out meanwhile."""
    with mail_server(domains={"slow.example": "451 4.7.1 later"}) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock), pause=lambda attempt: 3600.0)
        for number in range(6):
            postbox.post(verification(f"eve{number}@slow.example"))
        postbox.post(mail())
        (delivered,) = mails.wait_for(1, timeout=60)
        assert delivered["To"] == "ada@example.com"
        mails.wait_tried(7, timeout=60)
        postbox.post(mail("bob@example.com"))
        assert len(mails.wait_for(2, timeout=60)) == 2, "six mails wait an hour, and hold nobody"
        assert not postbox.drain(timeout=0.01), "a mail that waits for its next attempt is not done"
        assert postbox.dropped == 0
        assert postbox.close(timeout=60)
        assert mails.recipients.count("eve0@slow.example") == 2, "at the stop each is tried once more, without a pause"
        assert postbox.dropped == 6


def test_a_server_that_never_replies_holds_two_of_four_threads(clock: FixedClock) -> None:
    with mail_server(hold=["tar.example"]) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock, timeout=600, within=600))
        for number in range(9):
            postbox.post(verification(f"eve{number}@tar.example"))
        mails.wait_held(2, timeout=60)
        for number in range(5):
            postbox.post(verification(f"bob{number}@example.com"))
        assert len(mails.wait_for(5, timeout=60)) == 5
        assert mails.held == 2
        mails.release()
        assert postbox.close(timeout=60)
        assert postbox.sent == 14


def test_many_slow_destinations_leave_a_thread_for_resets(clock: FixedClock) -> None:
    slow = [f"{number}.example" for number in range(9)]
    with mail_server(hold=slow) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock, timeout=600, within=600))
        for domain in slow:
            postbox.post(verification(f"eve@{domain}"))
        mails.wait_held(3, timeout=60)
        postbox.post(mail())
        (delivered,) = mails.wait_for(1, timeout=60)
        assert delivered["To"] == "ada@example.com"
        assert mails.held == 3
        mails.release()
        assert postbox.close(timeout=60)


def test_what_is_urgent_goes_first_and_stays_in_a_full_queue(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    with posting(sender, threads=1, capacity=8) as postbox:
        notice = Mail("ada@0.example", "notice", "Changed", "")
        for number in range(8):
            postbox.post(replace(notice, to=f"ada@{number}.example"))
        assert sender.entered.acquire(timeout=60)
        postbox.post(mail("bob@example.com"))
        postbox.post(verification("eve@example.com"))
        assert caplog.text.count("(notice): dropped") == 2, "two notices gave way"
        sender.go_on.set()
        assert postbox.drain()
    assert [made.to for made in sender.mails[:4]] == [
        "ada@0.example",
        "bob@example.com",
        "eve@example.com",
        "ada@1.example",
    ]


def test_one_destination_gets_half_of_the_queue() -> None:
    queue = MailQueue(capacity=10, urgent=URGENT)
    taken = [queue.add(verification(f"eve{number}@Slow.example")) for number in range(8)]
    assert [lost is None for lost in taken] == [True] * 5 + [False] * 3
    assert queue.add(mail()) is None
    assert queue.due()[0].mail.to == "ada@example.com"
    # What is under way counts as well, and so does what waits for its next attempt.
    queue.take(queue.due()[1])
    assert queue.add(verification("eve@slow.EXAMPLE")) is not None


def test_a_thread_that_goes_is_seen_by_who_posts_next() -> None:
    """Threads end when nothing is left; a mail posted at that moment must not wait for one that has gone."""
    sender = MemorySender()
    with posting(sender, threads=2) as postbox:
        for number in range(3000):
            postbox.post(mail(f"ada@{number % 7}.example"))
            if number % 3 == 0:
                assert postbox.drain(60)
        assert postbox.drain(60)
    assert len(sender.mails) == 3000


def test_looking_up_does_not_wait_behind_mails() -> None:
    sender, done = Held(), threading.Event()
    with posting(sender) as postbox:
        for number in range(20):
            postbox.post(mail(f"ada@{number}.example"))
        assert postbox.submit(done.set)
        assert done.wait(30)
        assert sender.mails == []
        sender.go_on.set()


def test_a_call_that_was_taken_before_the_stop_may_still_post() -> None:
    sender, go_on = MemorySender(), threading.Event()
    postbox = Postbox(sender)

    def look_up() -> None:
        assert go_on.wait(30)
        postbox.post(mail())

    assert postbox.submit(look_up)
    closing = threading.Thread(target=postbox.close, args=(60,))
    closing.start()
    while not postbox.closed:
        pass
    go_on.set()
    closing.join(60)
    assert len(sender.mails) == 1
    assert not postbox.submit(look_up)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": -1}])
def test_a_postbox_without_threads_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="threads"):
        Postbox(MemorySender(), **wrong)  # type: ignore[arg-type]


def refusing(reply: str) -> Callable[[FixedClock], None]:
    def run(clock: FixedClock) -> None:
        with mail_server({"DATA": [reply] * 8}) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
            assert postbox.dropped == 1

    return run


def distrusted(clock: FixedClock) -> None:
    with mail_server(tls=True) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        postbox.post(mail())
        assert postbox.drain()
        assert postbox.dropped == 1


def failing_with(*errors: Exception) -> Callable[[FixedClock], None]:
    def run(clock: FixedClock) -> None:
        with posting(Failing(*errors), attempts=2) as postbox:
            postbox.post(mail())
            assert postbox.drain()

    return run


def overflowing(clock: FixedClock) -> None:
    sender = Held()
    with posting(sender, capacity=1) as postbox:
        postbox.post(mail())
        postbox.post(mail())
        sender.go_on.set()
        assert postbox.drain()


@pytest.mark.proves("ASVS 16.2.5", "ASVS 16.3.4")
@pytest.mark.parametrize(
    ("accident", "kind"),
    [
        (refusing(f"550 5.7.1 the link {URL} is on a list"), "SMTPDataError 550"),
        (refusing(f"451 4.7.1 ada@example.com: {TOKEN}"), "SMTPDataError 451"),
        (distrusted, "SSLCertVerificationError"),
        (failing_with(smtplib.SMTPRecipientsRefused({"ada@example.com": (550, TOKEN.encode())})), "Refused 550"),
        (failing_with(ConnectionResetError(URL), ConnectionResetError(URL)), "ConnectionResetError"),
        (failing_with(KeyError(mail().text)), "KeyError"),
        (overflowing, "dropped"),
    ],
    ids=["filter quotes the link", "greylisted", "certificate", "recipient", "connection", "bug", "full"],
)
def test_a_log_tells_the_mail_and_the_kind_and_no_secret(
    accident: Callable[[FixedClock], None], kind: str, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    accident(clock)
    records = [record for record in caplog.records if record.name == "mail_queue"]
    assert records
    written = "\n".join(caplog.handler.format(record) for record in records)
    assert "(reset-password)" in written
    assert kind in written
    for secret in (TOKEN, "token=", "ada@example.com"):
        assert secret not in written


def test_the_log_names_the_mail_that_the_message_id_names(clock: FixedClock, caplog: pytest.LogCaptureFixture) -> None:
    known = uuid.UUID(int=7)
    with mail_server({"DATA": ["451 later"]}) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        postbox.post(replace(mail(), id=known))
        assert postbox.drain()
    assert str(known) in caplog.text
    assert str(known) in mails.messages[0]["Message-ID"]
