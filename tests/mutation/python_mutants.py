"""Mutants of a Python module, made from its syntax tree.

Left out are messages, log events, counters, annotations, decorators, and the sizes and times that a module declares at
its top: no part of the promise depends on them.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator

from tests.mutation.mutant import Mutant

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.RShift: ast.LShift,
    ast.LShift: ast.RShift,
}
_FUNCTIONS = {"min": "max", "max": "min", "all": "any", "any": "all", "sorted": "list"}
_EXPRESSION = re.compile(r":[a-z]")
"""Strings with placeholders are expressions of DynamoDB."""
_TEXT = {"hint", "name", "reason"}
"""Arguments that are messages."""
_TEXTS = {"fields", "counts", "why", "hint", "problem"}
"""Variables that are messages or parts of log events."""
_Node = ast.expr | ast.stmt


def python_mutants(path: str, source: str) -> Iterator[Mutant]:
    """Yield the mutants of a module, in the order of its tree; each compiles and occurs once."""
    seen = {source}
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    encoded = source.encode()
    for node, role, scope in _places(ast.parse(source), ""):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        for changed in _changes(node, role):
            replacement = f"({changed})" if isinstance(node, ast.expr) else changed
            mutated = (encoded[:start] + replacement.encode() + encoded[end:]).decode()
            if mutated in seen or not _compiles(mutated):
                continue
            seen.add(mutated)
            before = encoded[start:end].decode()
            if isinstance(node, ast.expr):
                before = ast.unparse(node)  # as the changed code is written
            yield Mutant(path, node.lineno, scope or "module", before, changed, mutated)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _places(node: ast.AST, scope: str) -> Iterator[tuple[_Node, str, str]]:
    """Yield the expressions and statements that may change, with their roles and the functions around them."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".lstrip(".")
    for field, child in _children(node):
        if isinstance(child, ast.expr | ast.stmt):
            role = "last" if isinstance(node, ast.FunctionDef) and child is node.body[-1] else field
            is_size = not scope and isinstance(child, ast.Constant) and type(child.value) is int
            if not is_size:
                yield child, role, scope
        yield from _places(child, scope)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the parts of a node that are neither messages nor declarations, with the names of their fields."""
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Raise) or _is_report(node):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "target", "targets", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_text = isinstance(child, ast.keyword) and child.arg in _TEXT
            if isinstance(child, ast.AST) and not is_text:
                yield name, child


def _is_report(node: ast.AST) -> bool:
    """Return whether a node is a log event, a counter, a message, a docstring or a check of types."""
    if isinstance(node, ast.ClassDef):
        return node.name == "Counters"
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id in _TEXTS
    if isinstance(node, ast.Expr):
        is_event = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in (
            "log_event",
            "self._log_change",
        )
        return is_event or isinstance(node.value, ast.Constant)
    if isinstance(node, ast.AugAssign):
        return "counters." in ast.unparse(node.target)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).endswith(("Error", "field", "log_event"))
    return False


def _changes(node: _Node, role: str) -> Iterator[str]:
    """Yield the code that replaces a node. Its role is the field of its parent, or ``last`` in a function."""
    if _is_report(node):
        return
    if isinstance(node, ast.stmt):
        if not (role == "last" and isinstance(node, ast.Return)):
            yield from _statements(node)
        return
    if role == "test" and not isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield f"not ({ast.unparse(node)})"
    for changed in _expressions(node):
        yield ast.unparse(ast.fix_missing_locations(changed))


def _statements(node: ast.stmt) -> Iterator[str]:
    """Yield a statement without its effect, or with the opposite of its condition."""
    sets_state = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    if sets_state or isinstance(node, ast.Expr | ast.Raise | ast.Continue | ast.Break | ast.AugAssign | ast.Return):
        yield "pass"
    elif isinstance(node, ast.Try):
        for number, handler in enumerate(node.handlers):
            if not isinstance(handler.body[-1], ast.Raise):
                changed = copy.deepcopy(node)
                changed.handlers[number].body = [ast.Raise()]
                yield _indented(changed)
        if node.finalbody:
            changed = copy.deepcopy(node)
            changed.finalbody = [ast.Pass()]
            yield _indented(changed)


def _indented(node: ast.stmt) -> str:
    code = ast.unparse(ast.fix_missing_locations(node))
    return code.replace("\n", "\n" + " " * node.col_offset)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:  # noqa: PLR0912  one branch for each kind of expression
    """Yield the expressions that replace one."""
    match node:
        case ast.Compare():
            for number, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[number] = _COMPARISONS[type(operator)]()
                yield changed
            if isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                yield ast.UnaryOp(ast.Not(), node)
        case ast.BoolOp():
            for number in range(len(node.values)):
                changed_values = node.values[:number] + node.values[number + 1 :]
                yield changed_values[0] if len(changed_values) == 1 else ast.BoolOp(node.op, changed_values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if _EXPRESSION.search(value):
            yield from map(ast.Constant, _dynamodb_expressions(value))
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd()):
            yield node.left
            yield node.right
        case ast.BinOp() if type(node.op) in _ARITHMETIC and not (_is_string(node.left) or _is_string(node.right)):
            yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Dict() if len(node.keys) > 1:
            for number, key in enumerate(node.keys):
                if key is not None:
                    keys, values = list(node.keys), list(node.values)
                    del keys[number], values[number]
                    yield ast.Dict(keys, values)
        case ast.ListComp() | ast.GeneratorExp() | ast.DictComp() | ast.SetComp():
            for number, generator in enumerate(node.generators):
                if generator.ifs:
                    without = copy.deepcopy(node)
                    without.generators[number].ifs = []
                    yield without
        case ast.Call():
            yield from _calls(node)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    """Yield calls of a related function, or without one of the arguments."""
    name = ast.unparse(node.func)
    if name in _FUNCTIONS:
        keywords = [] if name == "sorted" else node.keywords
        yield ast.Call(ast.Name(_FUNCTIONS[name]), node.args, keywords)
    if name == "suppress":
        yield ast.Call(node.func, [], [])
    for number, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in {"strict", *_TEXT}:
            yield ast.Call(node.func, node.args, node.keywords[:number] + node.keywords[number + 1 :])


def _dynamodb_expressions(expression: str) -> Iterator[str]:
    """Yield expressions without one clause, with another bound, and with values that replace older ones."""
    for separator in (" AND ", " OR ", ", "):
        parts = expression.split(separator)
        if len(parts) > 1 and (separator != ", " or expression.startswith("SET ")):
            for number in range(len(parts)):
                left = separator.join(parts[:number] + parts[number + 1 :])
                yield left if number or separator != ", " else f"SET {left}"
    for old, new in ((" < ", " <= "), (" >= ", " > "), ("NOT ", "")):
        if old in expression:
            yield expression.replace(old, new)
    if "if_not_exists" in expression:
        yield re.sub(r"if_not_exists\(\S+, (:\w+)\)", r"\1", expression, count=1)
