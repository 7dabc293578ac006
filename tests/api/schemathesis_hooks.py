"""What no schema can say, made good before a request is sent, so that the answer tells about the rest of the request.

A cursor is signed and belongs to one list, filter and sort; an Idempotency-Key belongs to one request. Made-up ones are
refused, and behind those refusals nothing else would be checked. Where the cursor or the key itself is what is wrong,
it stays. test_pagination.py and test_idempotency.py have the made-up ones.
"""

import uuid
from typing import Any

import schemathesis

from playbook.pantry.lists import cursors_of
from playbook.pantry.organizations import ORGANIZATION_LIST
from playbook.pantry.packages import PACKAGE_LIST
from playbook.pantry.settings import Settings

CURSORS = cursors_of(Settings(environment="test").secret.get_secret_value())  # those of the service under test
LISTS = {"/organizations": ORGANIZATION_LIST, "/packages": PACKAGE_LIST}


def is_wrong(case: Any, component: str) -> bool:
    """Whether the query or the header of `case` is what breaks the schema."""
    if case.meta is None:
        return False
    if getattr(case.meta.phase.data, "parameter_location", None) is not None:  # one part is wrong, by intention
        return case.meta.generation.mode.is_negative and case.meta.phase.data.parameter_location.value == component
    return any(
        kind.value == component and info.mode.is_negative and case.meta.generation.mode.is_negative
        for kind, info in case.meta.components.items()
    )


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    query = case.query or {}
    if case.path in LISTS and query.get("cursor") is not None and not is_wrong(case, "query"):
        listing = LISTS[case.path]
        asked = listing.asked(case.path, listing.query.model_validate({**query, "cursor": None}))
        query["cursor"] = CURSORS.sign(["next", None], asked.name)
    if case.method == "POST" and "Idempotency-Key" in (case.headers or {}) and not is_wrong(case, "header"):
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
