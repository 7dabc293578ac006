"""What the recipe promises, with senders that fail and refuse and a clock of its own. Needs pytest, nothing else."""

import asyncio
import smtplib
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from playbook.auth.mail import Mail, Sender
from playbook.auth.mail_queue import FIRST_PAUSE, LONGEST_PAUSE, MailQueue, backoff, deliver

SECRET = "https://shop.example/reset?token=hQe4TtN1m"


def mail(to: str = "ada@example.com", kind: str = "notice") -> Mail:
    return Mail(to, kind, "Hello", SECRET)


class Failing:
    """Raises `errors` in turn, and then keeps what it is given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.mails = list(errors), list[Mail]()

    def send(self, mail: Mail) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.mails.append(mail)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def later() -> Exception:
    return smtplib.SMTPDataError(451, SECRET.encode())


def never() -> Exception:
    return smtplib.SMTPDataError(550, SECRET.encode())


def run(queue: MailQueue, sender: Sender) -> int:
    """Attempts until nothing is due."""
    attempts = 0
    while queue.send_next(sender):
        attempts += 1
    return attempts


def lost(queue: MailQueue, mails: Sequence[Mail]) -> list[str]:
    return [one.to for one in map(queue.add, mails) if one is not None]


def test_a_temporary_failure_is_tried_again_when_it_is_due() -> None:
    time, sender = Time(), Failing(later(), ConnectionResetError())
    queue = MailQueue(pause=lambda attempt: 10.0 * attempt, clock=time)
    queue.add(mail())
    seen = []
    for time.now in (0.0, 9.9, 10.0, 29.9, 30.0):
        seen.append(queue.send_next(sender))
    assert seen == [True, False, True, False, True]
    assert (queue.sent, queue.lost, len(sender.mails)) == (1, 0, 1)


def test_the_pause_begins_when_the_attempt_has_ended() -> None:
    time = Time()

    class Slow(Failing):
        def send(self, mail: Mail) -> None:
            time.now += 60
            super().send(mail)

    queue = MailQueue(pause=lambda attempt: 10.0, clock=time)
    queue.add(mail())
    assert run(queue, Slow(later())) == 1
    assert queue.waiting[0].due == 70.0


@pytest.mark.parametrize("error", [never(), KeyError("a bug")])
def test_a_final_failure_costs_one_mail_and_one_attempt(error: Exception) -> None:
    queue, sender = MailQueue(), Failing(error)
    queue.add(mail())
    queue.add(mail())
    assert run(queue, sender) == 2
    assert (queue.sent, queue.lost) == (1, 1)


def test_attempts_are_bounded_and_the_last_is_said(caplog: pytest.LogCaptureFixture) -> None:
    queue = MailQueue(attempts=3, pause=lambda attempt: 0.0)
    queue.add(mail())
    assert run(queue, Failing(*[later() for _ in range(9)])) == 3
    assert (queue.lost, queue.waiting, queue.under_way) == (1, [], [])
    assert "given up" in caplog.text


def test_a_mail_that_waits_holds_no_other() -> None:
    queue, sender = MailQueue(pause=lambda attempt: 3600.0), Failing(later())
    queue.add(mail("mallory@slow.example"))
    queue.add(mail())
    assert run(queue, sender) == 2
    assert [one.to for one in sender.mails] == ["ada@example.com"]


def test_the_most_urgent_goes_first_and_equals_in_their_order() -> None:
    queue, sender = MailQueue(urgent=["reset", "verify"]), Failing()
    for number, kind in enumerate(["notice", "other", "verify", "reset", "notice", "reset"]):
        queue.add(mail(f"{number}@example.com", kind))
    run(queue, sender)
    assert "".join(one.to[0] for one in sender.mails) == "352014"


def test_a_full_queue_drops_the_youngest_of_the_least_urgent_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    queue = MailQueue(capacity=3, urgent=["reset"])
    assert lost(queue, [mail(f"{name}@{name}.example") for name in "abc"]) == []
    assert queue.full
    gone = lost(queue, [mail("d@d.example"), mail("e@e.example", "reset"), mail("f@f.example")])
    assert gone == ["d@d.example", "c@c.example", "f@f.example"]
    assert (queue.lost, caplog.text.count("dropped")) == (3, 3)
    run(queue, Failing())
    assert not queue.full


def test_what_is_being_sent_takes_room_and_is_not_dropped() -> None:
    queue = MailQueue(capacity=1)
    queue.add(mail())
    queue.take(queue.due()[0])
    assert queue.full
    assert lost(queue, [mail("bob@b.example")]) == ["bob@b.example"]
    assert [queued.mail.to for queued in queue.under_way] == ["ada@example.com"]


def test_one_destination_gets_half_of_the_queue() -> None:
    queue = MailQueue(capacity=10)
    mallory = [mail(f"mallory{number}@Slow.example") for number in range(8)]
    assert len(lost(queue, mallory)) == 3
    assert lost(queue, [mail()]) == []
    queue.take(queue.due()[0])
    assert len(lost(queue, [mail("mallory@slow.EXAMPLE")])) == 1, "what is under way counts as well"


def test_many_threads_add_and_take_and_nothing_is_lost() -> None:
    queue, sender = MailQueue(capacity=10_000), Failing()

    def both(number: int) -> None:
        queue.add(mail(f"ada@{number % 50}.example"))
        queue.send_next(sender)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(both, range(1000)))
    run(queue, sender)
    assert (len(sender.mails), queue.sent, queue.lost) == (1000, 1000, 0)


def test_who_adds_does_not_wait_for_the_sender() -> None:
    queue, entered, go_on = MailQueue(), threading.Event(), threading.Event()

    class Held(Failing):
        def send(self, mail: Mail) -> None:
            entered.set()
            assert go_on.wait(60)

    queue.add(mail())
    with ThreadPoolExecutor(2) as threads:
        sending = threads.submit(queue.send_next, Held())
        assert entered.wait(60)
        threads.submit(queue.add, mail()).result(60)
        assert not sending.done()
        go_on.set()


@pytest.mark.parametrize("error", [later(), never(), KeyError(SECRET), ConnectionResetError(SECRET)])
def test_a_log_names_the_mail_and_no_secret(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    sent = mail()
    assert deliver(Failing(error), sent, 1) in (None, False)
    written = "\n".join(caplog.handler.format(record) for record in caplog.records)
    assert str(sent.id) in written
    assert type(error).__name__ in written
    for secret in (SECRET, "token=", "ada@example.com"):
        assert secret not in written


def test_pauses_grow_to_a_limit_and_differ() -> None:
    assert all(FIRST_PAUSE / 2 <= backoff(1) <= FIRST_PAUSE for _ in range(100))
    assert all(LONGEST_PAUSE / 2 <= backoff(30) <= LONGEST_PAUSE for _ in range(100))
    assert all(backoff(attempt) < backoff(attempt + 1) for attempt in range(1, 4) for _ in range(100))
    assert len({backoff(3) for _ in range(100)}) > 1


def test_a_service_sends_with_one_thread() -> None:
    queue, stop = MailQueue(urgent=["reset-password"]), threading.Event()

    def work(sender: Sender) -> None:
        while not stop.is_set():
            if not queue.send_next(sender):
                stop.wait(0.1)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        thread = threading.Thread(target=work, args=[app.state.sender], daemon=True)
        thread.start()
        yield
        stop.set()

    sender, arrived = Failing(), threading.Event()

    class Noting:
        def send(self, mail: Mail) -> None:
            sender.send(mail)
            arrived.set()

    class App:
        class state:
            sender = Noting()

    async def serve() -> None:
        async with lifespan(App):
            queue.add(mail())
            assert arrived.wait(60)

    asyncio.run(serve())
    assert [one.to for one in sender.mails] == ["ada@example.com"]
