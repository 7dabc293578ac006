"""The only queries of GraphQL that are answered, by hash: `PANTRY_KNOWN_QUERIES`, where all clients are the operator's.

Off by default. The build of each client collects its queries: a folder of `*.graphql` files, or the JSON object of
GraphQL Code Generator (`persisted-documents.json`), whose values are the queries. The hash is made here, of the bytes
as they are, whatever such an object calls them. A known query is limited as any other: the client chooses its
variables.
"""

import json
from pathlib import Path

from playbook.api.graphql_limits import by_id


class NoQueries(ValueError):
    """What the operator has named cannot be used. The text says which file, and why."""


def texts_of(path: Path) -> dict[str, str]:
    """The queries by where they stand. Raises NoQueries."""
    try:
        if path.is_dir():
            return {str(file): file.read_bytes().decode() for file in sorted(path.rglob("*.graphql"))}
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise NoQueries(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise NoQueries(f"{path}: neither a folder nor JSON in UTF-8: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise NoQueries(f"{path} should be a JSON object whose values are queries")
    return {f"{path}: {name}": text for name, text in found.items()}


def known_queries(path: Path) -> dict[str, str]:
    """The queries by their `documentId`. Raises NoQueries, also for one that this service could never answer."""
    from graphql import GraphQLError, parse, validate

    from playbook.pantry.graph_schema import CLOSED, SCHEMA

    found = texts_of(path)
    if not found:
        raise NoQueries(f"{path} has no query")
    for place, text in found.items():
        try:
            faults = validate(SCHEMA, parse(text, max_tokens=CLOSED.tokens), max_errors=1)
        except GraphQLError as error:
            faults = [error]
        for fault in faults:
            raise NoQueries(f"{place}: {fault.message}")
    return by_id(found.values())
