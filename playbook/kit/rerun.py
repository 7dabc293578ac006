"""Let a notebook cell that defines mapped classes be run again.

SQLAlchemy refuses a second table of one name in a `MetaData`. That is right in a program and wrong in a notebook,
where running a cell again means "replace it". Before a cell runs, the mapped classes it is about to redefine are
taken out. Only classes made in the notebook itself are touched, never imported ones.
"""

import ast
from typing import Any


def _redefined(source: str, namespace: dict[str, Any]) -> list[type]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []  # the cell itself will say so
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [namespace.get(name) for name in names]
    return [c for c in found if isinstance(c, type) and c.__module__ == "__main__" and hasattr(c, "__mapper__")]


def forget(mapped: type) -> None:
    """Take `mapped` out of its registry and its table out of the metadata, as if the class had never been declared."""
    registry, table, manager = mapped.registry, mapped.__table__, mapped.__mapper__.class_manager  # type: ignore[attr-defined]
    # SQLAlchemy only offers to dispose of a whole registry, which would take the imported classes along.
    registry._managers.pop(manager, None)
    registry._dispose_manager_and_mapper(manager)
    if table.metadata.tables.get(table.key) is table:
        table.metadata.remove(table)


def install() -> None:
    """Register with the running IPython shell, once; nothing happens outside one."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or getattr(shell, "_playbook_rerun", False):
        return

    def before(info: Any) -> None:
        for mapped in _redefined(info.raw_cell or "", shell.user_ns):
            forget(mapped)

    shell.events.register("pre_run_cell", before)
    shell._playbook_rerun = True
