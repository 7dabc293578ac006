"""Pantry's OpenAPI document as it is published, and which changes of it break a client.

`docs/openapi.json` is the contract: front ends make their types from it, and a review sees each change of it. It is
made by `playbook openapi > docs/openapi.json`; a test compares it with the service.
"""

import json
from collections.abc import Iterator, Set
from functools import cache
from typing import Any

Json = dict[str, Any]
KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


@cache
def _text() -> str:
    from playbook.auth.mail import MemorySender
    from playbook.foundations.settings import read_environment
    from playbook.pantry.app import pantry
    from playbook.pantry.settings import Settings

    given = {"PANTRY_ENVIRONMENT": "test", "DATABASE_URL": "duckdb:///:memory:published"}  # and not the process's own
    settings = read_environment(Settings, given)
    return json.dumps(pantry(settings, sender=MemorySender()).openapi())


def document() -> Json:
    """The document of a service with the settings of development; only the cookie's prefix depends on them."""
    found: Json = json.loads(_text())
    return found


def text() -> str:
    """It, as the file has it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- what breaks a client
# One rule for both directions. What a client sends: the new schema has to allow all that the old one allowed. What it
# reads: the new one may allow nothing that the old one did not. So one of the two has to lie within the other.


def breaking_changes(old: Json, new: Json) -> list[str]:
    """What a client of `old` can no longer rely on in `new`; a new operation, parameter or member is no harm.

    It compares kinds of values, constants, and names; not patterns, formats and limits of size.
    """
    found: list[str] = []
    for path, methods in old["paths"].items():
        for method, before in methods.items():
            name, after = f"{method.upper()} {path}", new["paths"].get(path, {}).get(method)
            found += [f"{name}: it is gone"] if after is None else operation_changes(old, new, name, before, after)
    return sorted(set(found))


def operation_changes(old: Json, new: Json, name: str, before: Json, after: Json) -> Iterator[str]:
    """The same for one operation."""
    known = {(one["in"], one["name"]): one for one in before.get("parameters", ())}
    for one in after.get("parameters", ()):
        where = f"{name}: {one['in']} {one['name']}"
        earlier = known.pop((one["in"], one["name"]), None)
        if one.get("required") and not (earlier or {}).get("required"):
            yield f"{where}: it is required now"
        if earlier is not None:
            yield from outside(old, earlier["schema"], new, one["schema"], where, sent=True)
    yield from (f"{name}: {place} {parameter}: it is gone" for place, parameter in known)
    sent, taken = before.get("requestBody", {}), after.get("requestBody", {})
    if taken.get("required") and not sent.get("required"):
        yield f"{name}: a body is required now"
    yield from content_changes(old, new, f"{name}: body", sent, taken, sent=True)
    for status, answer in before["responses"].items():
        if status not in after["responses"]:
            yield f"{name}: {status}: it is gone"
        else:
            yield from content_changes(old, new, f"{name}: {status}", answer, after["responses"][status], sent=False)
    if (new_security := after.get("security")) and not before.get("security"):
        yield f"{name}: it asks for {', '.join(new_security[0])} now"


def content_changes(old: Json, new: Json, where: str, before: Json, after: Json, sent: bool) -> Iterator[str]:
    """The same for the media types of one body, and the headers of one answer."""
    contents = after.get("content", {})
    for media_type, content in before.get("content", {}).items():
        if media_type not in contents:
            yield f"{where} {media_type}: it is gone"
        else:
            both = content.get("schema", {}), new, contents[media_type].get("schema", {})
            yield from outside(old, *both, where, sent=sent)
    for header in before.get("headers", {}):
        if not sent and header not in after.get("headers", {}):
            yield f"{where}: header {header}: it is gone"


def outside(old: Json, before: Json, new: Json, after: Json, where: str, *, sent: bool) -> Iterator[str]:
    """Where a value may be what the other side does not expect."""
    first, second = resolved(old, before), resolved(new, after)
    inner, outer = (first, second) if sent else (second, first)
    for kind in sorted(kinds(inner) - kinds(outer)):
        yield f"{where}: {kind} is {'not taken any more' if sent else 'possible now'}"
    allowed, possible = constants(outer), constants(inner)
    if allowed is not None:
        others = ["what is not listed"] if possible is None else sorted(map(repr, possible - allowed))
        yield from (f"{where}: {value} is {'not taken any more' if sent else 'possible now'}" for value in others)
    # Seen from `old` now: what became of its members, whichever side is the inner one.
    members = second.get("properties", {})
    for member, schema in first.get("properties", {}).items():
        if member not in members:
            yield f"{where}: {member}: it is gone"
        else:
            yield from outside(old, schema, new, members[member], f"{where}: {member}", sent=sent)
    needed = set(outer.get("required", ())) - set(inner.get("required", ()))
    for member in sorted(needed & members.keys()):
        yield f"{where}: {member}: it is {'required now' if sent else 'not always there any more'}"
    if "items" in first and "items" in second:
        yield from outside(old, first["items"], new, second["items"], f"{where}[]", sent=sent)


def resolved(document: Json, schema: Json) -> Json:
    """The schema itself; of `anyOf` with null, the part that is not null, which allows null, too."""
    while "$ref" in schema:
        place: Any = document
        for name in schema["$ref"].removeprefix("#/").split("/"):
            place = place[name.replace("~1", "/").replace("~0", "~")]
        schema = place
    parts = [resolved(document, one) for one in schema.get("anyOf", ())]
    if not parts:
        return schema
    whole = {name: value for one in parts for name, value in one.items()}
    whole["type"] = sorted({kind for one in parts for kind in kinds(one)})
    return whole


def kinds(schema: Json) -> Set[str]:
    """Which kinds of values a schema allows. An integer is a number, too."""
    said = schema.get("type", sorted(KINDS))
    found = frozenset([said] if isinstance(said, str) else said)
    return found | {"integer"} if "number" in found else found


def constants(schema: Json) -> Set[Any] | None:
    """The values of an enumeration; None when there is none."""
    if "const" in schema:
        return frozenset([schema["const"]])
    return frozenset(schema["enum"]) if "enum" in schema else None
