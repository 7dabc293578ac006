"""Which global names a piece of a page's code binds, and which it needs from before. Nothing is run."""

import ast
import symtable
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def binds(source: str) -> set[str]:
    """The names that `source` binds at its top level: definitions, imports, assignments, loops."""
    top = symtable.symtable(source, "cell", "exec")
    return {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def needs(source: str) -> dict[str, int]:
    """The global names that `source` reads without having bound them, each with the line of its first use."""
    tree = ast.parse(source)
    bound = binds(source)
    found: dict[str, int] = {}
    # `a += 1` reads `a`, which a symbol table does not say.
    augmented = {n.target.id for n in tree.body if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
    for name in _read(symtable.symtable(source, "cell", "exec")) | augmented:
        if name not in bound or _read_first(tree, name):
            lines = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name]
            found[name] = min(lines, default=1)
    return found


def _read(table: symtable.SymbolTable) -> set[str]:
    """The global names that a scope and those within it read."""
    module = table.get_type() == "module"
    found = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (module or s.is_global())}
    for inner in table.get_children():
        found |= _read(inner)
    return found


def _read_first(tree: ast.Module, name: str) -> bool:
    """Whether the top level reads `name` before it binds it. What functions read, they read later."""
    for statement in tree.body:
        reads = name in _loads(statement)
        if name in binds(ast.unparse(statement)):
            value = getattr(statement, "value", None) or getattr(statement, "iter", None)
            return isinstance(statement, ast.AugAssign) or (value is not None and name in set(_loads(value)))
        if reads:
            return True
    return False


def _loads(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    if isinstance(node, FUNCTIONS):
        now = [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        for part in now:
            yield from _loads(part)
    elif not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _loads(child)
