"""What the recipe promises, in simulated time. Needs pytest, hypothesis and httpx, nothing else."""

import inspect
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from playbook.api.retries import Retries, RetryBudget, may_retry, retry_after, send_with_retries

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
Answer = httpx.Response | httpx.TransportError
pauses: list[float] = []


def sleep(seconds: float) -> None:
    pauses.append(seconds)


def highest(low: float, high: float) -> float:
    return high


def client_of(*answers: Answer) -> tuple[httpx.Client, list[httpx.Request]]:
    """A client that gets these answers, the last one again and again, and what it has sent."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        answer = answers[min(len(sent), len(answers)) - 1]
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    pauses.clear()
    return httpx.Client(transport=httpx.MockTransport(handle), base_url="http://stock.example"), sent


def request_of(method: str, **headers: str) -> httpx.Request:
    return httpx.Request(method, "http://stock.example/items/7", headers=headers)


def policy(**options: float) -> Retries:
    return Retries(RetryBudget(), draw=highest, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"])
@pytest.mark.parametrize(
    "outcome", [httpx.Response(503), httpx.Response(429), httpx.ReadTimeout(""), httpx.ReadError("")]
)
def test_only_what_may_be_repeated_is_repeated(method: str, outcome: Answer) -> None:
    assert may_retry(request_of(method), outcome) == (method not in ("POST", "PATCH"))
    assert may_retry(request_of(method, **{"Idempotency-Key": '"7"'}), outcome)


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 404, 409, 412, 422, 500, 501])
def test_a_final_answer_is_final(status: int) -> None:
    assert not may_retry(request_of("GET"), httpx.Response(status))


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_what_may_pass_is_sent_again(status: int) -> None:
    assert may_retry(request_of("GET"), httpx.Response(status))


def test_what_was_never_sent_is_safe_for_every_method() -> None:
    for error in (httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.PoolTimeout("")):
        assert may_retry(request_of("POST"), error)
    assert not may_retry(request_of("GET"), httpx.UnsupportedProtocol(""))


@pytest.mark.parametrize(
    "outcome", [*map(httpx.Response, (408, 425, 429, 502, 503, 504)), httpx.RemoteProtocolError("")]
)
def test_what_may_pass_is_tried_again(outcome: Answer) -> None:
    assert may_retry(request_of("GET"), outcome)


def test_a_first_request_that_still_runs_is_waited_for() -> None:
    running = httpx.Response(409, headers={"Retry-After": "1"})
    assert may_retry(request_of("POST", **{"Idempotency-Key": '"7"'}), running)
    assert not may_retry(request_of("POST"), running)


@given(st.integers(0, 10**6))
def test_both_forms_of_retry_after_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    for value in (str(seconds), date, date.replace("GMT", "-0000")):
        assert retry_after(httpx.Response(503, headers={"Retry-After": value}), NOW) == seconds


@example("7.5")
@example("-7")
@example("7 s")
@example("9" * 5000)  # more digits than `int` takes
@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_any_other_retry_after_is_no_wish(value: str) -> None:
    answer = httpx.Response(503, headers=[(b"Retry-After", value.encode("latin-1"))])
    assert retry_after(answer, NOW) >= 0


def test_a_date_that_is_over_is_no_wait() -> None:
    answer = httpx.Response(503, headers={"Retry-After": format_datetime(NOW - timedelta(hours=1), usegmt=True)})
    assert retry_after(answer, NOW) == 0
    assert retry_after(httpx.ReadError(""), NOW) == 0


def test_pauses_double_and_attempts_end() -> None:
    client, sent = client_of(httpx.Response(503))
    response = send_with_retries(client, request_of("GET"), policy(longest=1.5), sleep=sleep)
    assert (response.status_code, len(sent), pauses) == (503, 4, [0.5, 1.0, 1.5])
    send_with_retries(client, request_of("GET"), policy(), sleep=sleep)
    assert pauses[3:] == [0.5, 1.0, 2.0]
    send_with_retries(client, request_of("GET"), Retries(RetryBudget(), draw=lambda low, high: low), sleep=sleep)
    assert pauses[6:] == [0, 0, 0]


def test_the_last_error_is_raised_and_an_earlier_one_is_not() -> None:
    client, sent = client_of(httpx.ConnectError("refused"))
    with pytest.raises(httpx.ConnectError, match="refused"):
        send_with_retries(client, request_of("POST"), policy(), sleep=sleep)
    assert len(sent) == 4
    client, sent = client_of(httpx.ReadTimeout(""), httpx.Response(200))
    assert send_with_retries(client, request_of("GET"), policy(), sleep=sleep).status_code == 200


def test_a_wish_is_obeyed_or_the_caller_gives_up() -> None:
    client, _ = client_of(httpx.Response(503, headers={"Retry-After": "7"}), httpx.Response(200))
    send_with_retries(client, request_of("GET"), policy(), sleep=sleep)
    assert pauses == [7.5]
    client, sent = client_of(httpx.Response(503, headers={"Retry-After": "31"}))
    patient = policy()
    assert send_with_retries(client, request_of("GET"), patient, sleep=sleep).status_code == 503
    assert (len(sent), pauses, patient.budget.tokens) == (1, [], 10)  # a retry that is not sent costs nothing
    client, sent = client_of(httpx.Response(503, headers={"Retry-After": "30"}), httpx.Response(200))
    send_with_retries(client, request_of("GET"), policy(), sleep=sleep)
    assert pauses == [30.5]


def test_a_wish_for_a_moment_is_measured_by_the_clock_that_is_given() -> None:
    wish = {"Retry-After": format_datetime(NOW + timedelta(seconds=20), usegmt=True)}
    client, _ = client_of(httpx.Response(503, headers=wish), httpx.Response(200))
    send_with_retries(client, request_of("GET"), policy(), lambda: NOW, sleep)
    assert pauses == [20.5]


def test_an_error_that_is_not_the_network_s_is_raised_at_once() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise httpx.DecodingError("not gzip")

    sent: list[httpx.Request] = []
    with httpx.Client(transport=httpx.MockTransport(handle)) as client, pytest.raises(httpx.DecodingError):
        send_with_retries(client, request_of("GET"), policy(), sleep=sleep)
    assert len(sent) == 1


@given(st.integers(1, 400), st.floats(0, 0.5), st.integers(0, 20))
def test_retries_are_a_share_of_the_requests(requests: int, share: float, reserve: int) -> None:
    retries = Retries(RetryBudget(share, reserve), attempts=9)
    sent = 0
    for _ in range(requests):
        attempt = 1
        while retries.next_wait(request_of("GET"), httpx.Response(503), attempt, NOW) is not None:
            attempt += 1
        sent += attempt
    assert sent - requests <= reserve + share * requests + 1e-6


def test_a_budget_begins_full_is_refilled_and_never_more_than_full() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(11):  # ten would do, if a tenth were exact
        budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]


def test_requests_that_succeed_pay_for_later_retries() -> None:
    retries = policy()
    retries.budget.tokens = 0
    assert retries.next_wait(request_of("GET"), httpx.Response(503), 1, NOW) is None
    for _ in range(10):
        assert retries.next_wait(request_of("GET"), httpx.Response(200), 1, NOW) is None
    assert retries.next_wait(request_of("GET"), httpx.Response(503), 2, NOW) == 1.0


class Slow(float):
    """A number that takes its time, so that another thread comes between."""

    def __lt__(self, other: float) -> bool:
        time.sleep(0.05)
        return float(self) < other

    def __add__(self, other: float) -> float:
        time.sleep(0.05)
        return float(self) + other


@pytest.mark.parametrize(("method", "tokens", "left"), [("spend", 1.5, 0.5), ("earn", 1.0, 3.0)])
def test_two_threads_do_not_overwrite_each_other(method: str, tokens: float, left: float) -> None:
    budget = RetryBudget(share=1)
    budget.tokens = Slow(tokens)
    threads = [threading.Thread(target=getattr(budget, method)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.tokens == left


def test_threads_do_not_spend_a_token_twice() -> None:
    budget = RetryBudget(share=0, reserve=1000)
    spent: list[bool] = []
    threads = [threading.Thread(target=lambda: spent.extend(budget.spend() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(spent) == 1000


class Stock:
    def __init__(self, client: httpx.Client, retries: Retries) -> None:
        self.client = client
        self.retries = retries

    def reserve(self, order: str, item: int) -> bool:
        headers = {"Idempotency-Key": f'"reserve-{order}-{item}"'}
        request = self.client.build_request("POST", f"/items/{item}", headers=headers)
        response = send_with_retries(self.client, request, self.retries)
        return response.status_code == 201


def test_a_client_of_a_service() -> None:
    client, sent = client_of(httpx.ReadTimeout(""), httpx.Response(503), httpx.Response(201))
    assert Stock(client, Retries(RetryBudget(), first=0)).reserve("12", 7)  # no pause: it would really sleep
    assert [request.headers["Idempotency-Key"] for request in sent] == ['"reserve-12-7"'] * 3


def test_the_defaults_are_real_time_and_real_chance() -> None:
    waits = set()
    for _ in range(20):
        waits.add(Retries(RetryBudget()).next_wait(request_of("GET"), httpx.ReadError(""), 1, NOW))
    assert len(waits) > 1
    assert max(wait or 0 for wait in waits) <= 0.5
    assert inspect.signature(send_with_retries).parameters["sleep"].default is time.sleep
    over = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    client, sent = client_of(httpx.Response(503, headers={"Retry-After": over}), httpx.Response(200))
    send_with_retries(client, request_of("GET"), policy(), sleep=sleep)
    assert (len(sent), pauses) == (2, [0.5])
