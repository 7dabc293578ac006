"""A route called without FastAPI: the same endpoint. What it depends on is put in order once, and not at each request.

For a request FastAPI looks for the route, walks through its dependencies, and keeps stacks for what may be closed
later. That takes longer than a small endpoint with its statement. What the routes here depend on is plain: coroutines
that want the request, a word of the path, the body, or each other. So their order is found when the service starts, and
a route that wants more is refused then.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from playbook.pantry.conditions import representation

BODY = "the body"
SEGMENT = "[A-Za-z0-9._-]{1,200}"  # of a path: what is spelled as it is sent


class Step(NamedTuple):
    """One coroutine. `wants`: its parameters, and under which key each of them is known by then."""

    call: Callable[..., Any]
    wants: list[tuple[str, Any]]


class Direct:
    """The route of FastAPI's `context`, called directly. What the functions `given` would return is handed in.

    Raises ValueError for a route that only FastAPI can call.
    """

    def __init__(self, context: Any, given: Sequence[Callable[..., Any]] = ()) -> None:
        self.route, self.given, self.known = context, given, dict[Any, Any]()
        self.status = context.status_code or 200
        self.body: type[BaseModel] | None = None
        self.steps: list[Step] = []
        self.add(context.dependant)  # the endpoint is the last step
        template = re.escape(context.path).replace(r"\{", "{").replace(r"\}", "}")
        self.path = re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{SEGMENT})", template).encode())

    def add(self, wanted: Any) -> None:
        """The steps of FastAPI's `wanted`, after those of what it depends on."""
        if wanted.call in self.given or any(step.call is wanted.call for step in self.steps):
            return
        for each in wanted.dependencies:
            self.add(each)
        if not iscoroutinefunction(wanted.call):
            raise ValueError(f"{wanted.call} is no coroutine function")
        wants = [(each.name, each.call) for each in wanted.dependencies if each.name]
        for name in (wanted.request_param_name, wanted.http_connection_param_name):
            wants += [(name, Request)] if name else []
        wants += [(wanted.response_param_name, Response)] if wanted.response_param_name else []
        for param in wanted.path_params:
            if param.field_info.annotation is not str or param.field_info.metadata:
                raise ValueError(f"{param.name} is not simply a text")
            wants.append((param.name, param.name))
        for param in wanted.query_params:
            self.known[param] = model_of(param)()  # what it is without a query; ValidationError is a ValueError
            wants.append((param.name, param))
        for param in wanted.body_params:
            self.body = model_of(param)
            wants.append((param.name, BODY))
        rest = (wanted.header_params, wanted.cookie_params, wanted.background_tasks_param_name)
        if any((*rest, wanted.security_scopes_param_name, wanted.websocket_param_name)):
            raise ValueError(f"{wanted.call} wants what only FastAPI can give")
        self.steps.append(Step(wanted.call, wants))

    def read(self, body: bytes) -> BaseModel | None:
        """The body that the endpoint gets, None for none. Raises ValueError for a bad one."""
        return None if self.body is None else self.body.model_validate(json.loads(body))

    async def __call__(self, request: Request, given: Mapping[Any, Any], body: BaseModel | None = None) -> Response:
        """What the endpoint answers. `given`: by function. Raises what it raises, and what it depends on."""
        response = Response()
        del response.headers["content-length"]  # it only takes the headers that are added
        known = {**self.known, **given, **request.path_params, Request: request, Response: response, BODY: body}
        for call, wants in self.steps:
            known[call] = result = await call(**{name: known[key] for name, key in wants})
        if isinstance(result, Response):
            return result
        answer = Response(representation(result), self.status, media_type="application/json")
        answer.raw_headers.extend(response.raw_headers)
        return answer


def model_of(param: Any) -> type[BaseModel]:
    """The model of a body or a query. Raises ValueError for anything else."""
    model = param.field_info.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ValueError(f"{param.name} is no model")
    return model
