"""The exercise of the page "Resources": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from playbook.kit.exercises import checker
from playbook.kit.live import serving

HINTS = (
    "See 'The idea' for a route that refuses an unknown number, '201 and Location' for the\n"
    "header, and the list of status codes below the table.",
    "The status of the order decides. Paid: pay back, then remember it, then answer 201.\n"
    "Cancelled: answer 200 and do nothing. `response.status_code = 201` changes the code.",
)

# Plausible, and refused in words.
WRONG = (
    # Pays back with every PUT.
    """
from fastapi import HTTPException, Request, Response

def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    def read_cancellation(number: int):
        if status.get(number) != "cancelled":
            raise HTTPException(404, "no cancellation")
        return {}

    @app.put(url, status_code=201)
    def put_cancellation(number: int, request: Request, response: Response):
        if number not in status:
            raise HTTPException(404, "no order")
        if status[number] == "shipped":
            raise HTTPException(409, "shipped")
        refund(number)
        status[number] = "cancelled"
        response.headers["Location"] = path_of(request, "read_cancellation", number=number)
        return {}
""",
    # Remembers the cancellation before the money is paid back.
    """
from fastapi import HTTPException, Request, Response

def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    def read_cancellation(number: int):
        if status.get(number) != "cancelled":
            raise HTTPException(404, "no cancellation")
        return {}

    @app.put(url)
    def put_cancellation(number: int, request: Request, response: Response):
        if number not in status:
            raise HTTPException(404, "no order")
        if status[number] == "shipped":
            raise HTTPException(409, "shipped")
        if status[number] == "paid":
            status[number] = "cancelled"
            refund(number)
            response.status_code = 201
            response.headers["Location"] = path_of(request, "read_cancellation", number=number)
        return {}
""",
    # Takes the host for Location from the request.
    """
from fastapi import HTTPException, Request, Response

def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    def read_cancellation(number: int):
        if status.get(number) != "cancelled":
            raise HTTPException(404, "no cancellation")
        return {}

    @app.put(url)
    def put_cancellation(number: int, request: Request, response: Response):
        if number not in status:
            raise HTTPException(404, "no order")
        if status[number] == "shipped":
            raise HTTPException(409, "shipped")
        if status[number] == "paid":
            refund(number)
            status[number] = "cancelled"
            response.status_code = 201
            response.headers["Location"] = str(request.url)
        return {}
""",
    # A GET that cancels, as in the first shop.
    """
from fastapi import HTTPException

def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    @app.put(url)
    def cancellation(number: int):
        if number not in status:
            raise HTTPException(404, "no order")
        if status[number] == "paid":
            refund(number)
            status[number] = "cancelled"
        return {}
""",
    # Says in the body that a shipped order cannot be cancelled.
    """
from fastapi import HTTPException, Request, Response

def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    def read_cancellation(number: int):
        if status.get(number) != "cancelled":
            raise HTTPException(404, "no cancellation")
        return {}

    @app.put(url)
    def put_cancellation(number: int, request: Request, response: Response):
        if number not in status:
            raise HTTPException(404, "no order")
        if status[number] == "shipped":
            return {"error": "shipped"}
        if status[number] == "paid":
            refund(number)
            status[number] = "cancelled"
            response.status_code = 201
            response.headers["Location"] = path_of(request, "read_cancellation", number=number)
        return {}
""",
)


@checker
def check(add_cancellation: Callable[..., Any]) -> str:
    """Cancel four orders of a small shop, one of them with a bank that does not answer at first."""
    status = {11: "paid", 12: "shipped", 13: "paid", 14: "paid"}
    paid_back: list[int] = []
    no_answer = [13]

    def refund(number: int) -> None:
        if number in no_answer:
            no_answer.remove(number)
            raise RuntimeError("the bank does not answer")
        paid_back.append(number)

    app = FastAPI()
    add_cancellation(app, status, refund)
    with serving(app) as client:

        def send(method: str, number: int) -> Any:
            headers = {"host": "mallory.example", "connection": "close"}  # uvicorn closes it after an error
            return client.request(method, f"/orders/{number}/cancellation", headers=headers)

        return (
            _reading(send, status)
            or _cancelling(send, status, paid_back)
            or _refusing(send, status, paid_back)
            or _failing(send, status, paid_back)
            or "right"
        )


def _reading(send: Callable[[str, int], Any], status: dict[int, str]) -> str:
    before = dict(status)
    code = send("GET", 14).status_code
    if status != before:
        return "not yet: GET changed an order; it must be safe"
    if code != 404:
        return f"not yet: nobody has cancelled order 14, and GET of its cancellation answers {code}"
    return ""


def _cancelling(send: Callable[[str, int], Any], status: dict[int, str], paid_back: list[int]) -> str:
    first = send("PUT", 11)
    if first.status_code == 405:
        return "not yet: the cancellation of an order does not take PUT"
    if paid_back != [11] or status[11] != "cancelled":
        return f"not yet: after PUT the money of {paid_back} is paid back, and order 11 is {status[11]!r}"
    if first.status_code != 201:
        return f"not yet: the first PUT creates something, and its status is {first.status_code}"
    location = first.headers.get("location", "")
    if "mallory" in location:
        return "not yet: Location holds the host that the client sent"
    if location != "/orders/11/cancellation":
        return f"not yet: Location should lead to the cancellation of order 11, and it is {location!r}"
    second = send("PUT", 11)
    if paid_back != [11]:
        return "not yet: the client sent PUT again after a timeout, and the money was paid back twice"
    if second.status_code != 200:
        return f"not yet: the second PUT creates nothing, and its status is {second.status_code}"
    if "location" in second.headers:
        return "not yet: Location says that something was created, and the second PUT creates nothing"
    read = send("GET", 11)
    if read.status_code != 200 or paid_back != [11]:
        return f"not yet: order 11 is cancelled, and GET of its cancellation answers {read.status_code}"
    return ""


def _refusing(send: Callable[[str, int], Any], status: dict[int, str], paid_back: list[int]) -> str:
    for number, right, why in (
        (12, 409, "order 12 was shipped, so its state forbids a cancellation now"),
        (99, 404, "there is no order 99, so this URL names nothing"),
    ):
        code = send("PUT", number).status_code
        if paid_back != [11] or status.get(number) == "cancelled":
            return f"not yet: order {number} must not be cancelled or paid back"
        if code != right:
            return f"not yet: {why}, and PUT answers {code}"
        if send("GET", number).status_code != 404:
            return f"not yet: order {number} has no cancellation, and GET finds one"
    if 99 in status:
        return "not yet: an unknown order was added to the orders"
    return ""


def _failing(send: Callable[[str, int], Any], status: dict[int, str], paid_back: list[int]) -> str:
    failed = send("PUT", 13)
    if failed.status_code < 500:
        return f"not yet: the bank did not answer, and PUT says {failed.status_code}; let the error pass"
    if send("GET", 13).status_code != 404:
        return "not yet: the bank did not answer, and the order counts as cancelled all the same"
    again = send("PUT", 13)
    if 13 not in paid_back:
        return "not yet: the client tried again after the bank's failure, and never got the money"
    if (again.status_code, status[13]) != (201, "cancelled"):
        return f"not yet: the second try cancels order 13, and its status code is {again.status_code}"
    if status[14] != "paid" or paid_back != [11, 13]:
        return "not yet: an order was touched that no PUT named"
    return ""
