"""What the recipe promises, in simulated time. Needs pytest, hypothesis and httpx, nothing else."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
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


def test_a_first_request_that_still_runs_is_waited_for() -> None:
    running = httpx.Response(409, headers={"Retry-After": "1"})
    assert may_retry(request_of("POST", **{"Idempotency-Key": '"7"'}), running)
    assert not may_retry(request_of("POST"), running)


@given(st.integers(0, 10**6))
def test_both_forms_of_retry_after_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    for value in (str(seconds), date, date.replace("GMT", "-0000")):
        assert retry_after(httpx.Response(503, headers={"Retry-After": value}), NOW) == seconds


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
    assert send_with_retries(client, request_of("GET"), policy(), sleep=sleep).status_code == 503
    assert (len(sent), pauses) == (1, [])


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
    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.retries = Retries(RetryBudget())

    def reserve(self, order: str, item: int) -> bool:
        headers = {"Idempotency-Key": f'"reserve-{order}-{item}"'}
        request = self.client.build_request("POST", f"/items/{item}", headers=headers)
        response = send_with_retries(self.client, request, self.retries, sleep=sleep)
        return response.status_code == 201


def test_a_client_of_a_service() -> None:
    client, sent = client_of(httpx.ReadTimeout(""), httpx.Response(503), httpx.Response(201))
    assert Stock(client).reserve("12", 7)
    assert {request.headers["Idempotency-Key"] for request in sent} == {'"reserve-12-7"'}
    assert len(pauses) == 2
    assert max(pauses) <= 1.0  # random, and at most `first`, then twice that
