"""Let a notebook cell that defines mapped classes be run again.

SQLAlchemy refuses a second table of one name in a `MetaData`. That is right in a program and wrong in a notebook,
where running a cell again means "replace it". Before a cell runs, the mapped classes and tables it is about to
redefine are taken out. Only classes made in the notebook itself are touched, never imported ones.
"""

import ast
import sys
from typing import Any


def _redefined(source: str, namespace: dict[str, Any]) -> tuple[list[type], list[Any]]:
    """The mapped classes and the tables of the notebook that `source` is about to define again."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return [], []  # the cell itself will say so
    classes = [namespace.get(node.name) for node in tree.body if isinstance(node, ast.ClassDef)]
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    values = [namespace.get(target.id) for target in assigned if isinstance(target, ast.Name)]
    return (
        [c for c in classes if isinstance(c, type) and c.__module__ == "__main__" and "__mapper__" in c.__dict__],
        [v for v in values if type(v).__name__ == "Table" and hasattr(v, "metadata") and not _imported(v)],
    )


def _imported(table: Any) -> bool:
    modules = [module for name, module in sys.modules.items() if name.startswith("playbook.")]
    return any(value is table for module in modules for value in list(vars(module).values()))


def forget(mapped: type) -> None:
    """Take `mapped` out of its registry and its table out of the metadata, as if the class had never been declared."""
    registry, mapper = mapped.registry, mapped.__mapper__  # type: ignore[attr-defined]
    # SQLAlchemy only offers to dispose of a whole registry, which would take the imported classes along.
    registry._managers.pop(mapper.class_manager, None)
    registry._dispose_manager_and_mapper(mapper.class_manager)
    if mapper.inherits is None or mapper.local_table is not mapper.inherits.local_table:  # not the parent's table
        forget_table(mapper.local_table)


def forget_table(table: Any) -> None:
    """Take `table` out of its metadata."""
    if table.metadata.tables.get(table.key) is table:
        table.metadata.remove(table)


def install() -> None:
    """Register with the running IPython shell, once; nothing happens outside one."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or getattr(shell, "_playbook_rerun", False):
        return

    def before(info: Any) -> None:
        classes, tables = _redefined(info.raw_cell or "", shell.user_ns)
        for mapped in classes:
            forget(mapped)
        for table in tables:
            forget_table(table)

    shell.events.register("pre_run_cell", before)
    shell._playbook_rerun = True
