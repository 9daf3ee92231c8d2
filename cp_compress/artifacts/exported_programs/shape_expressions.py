"""Expressions of symbolic sizes in an exported program: arithmetic of symbols and whole numbers.

SymPy, which reads them for torch, evaluates any Python. So they are first parsed here into a syntax tree, of which only
the nodes that sizes need are accepted.
"""

from __future__ import annotations

import ast
import re

_LONGEST = 2000
_LARGEST, _LARGEST_EXPONENT = 1 << 63, 8
_FUNCTIONS = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Max|Min|Mod|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|FloorDiv|CleanDiv|CeilDiv|PythonMod|ModularIndexing"
    r"|Identity|IntTrueDiv|ToFloat|TruncToInt|CeilToInt|FloorToInt|Where"
)
_SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,9}|true|false|oo|int_oo")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_shape_expression(text: str) -> bool:
    """Tell whether a text is arithmetic of symbols and numbers alone, small enough to be evaluated.

    >>> is_shape_expression("2*Symbol('s0', positive=True, integer=True)"), is_shape_expression("exit(s0)")
    (True, False)
    """
    if len(text) > _LONGEST:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_arithmetic, nodes)) and not any(map(_has_power_of_power, nodes))


def _has_power_of_power(node: ast.AST) -> bool:
    """Tell whether a node is a power in whose base another stands: towers of small ones take endless time."""
    return _is_power(node) and any(map(_is_power, list(ast.walk(node))[1:]))


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "Pow"
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else None
        power = name == "Pow" and len(node.args) == 2 and _is_small(node.args[1])
        digits = name == "Float" and len(node.args) != 1  # the second argument is how many digits are computed
        return (
            (bool(name and _FUNCTIONS.fullmatch(name)) or power)
            and not digits
            and all(
                isinstance(each.value, ast.Constant) and isinstance(each.value.value, bool) and each.arg is not None
                for each in node.keywords
            )
        )
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # the name of a Symbol
            return bool(_NAME.fullmatch(node.value))
        return isinstance(node.value, (bool, float)) or (isinstance(node.value, int) and node.value < _LARGEST)
    if isinstance(node, ast.Name):
        return any(each.fullmatch(node.id) for each in (_FUNCTIONS, _SYMBOL)) or node.id == "Pow"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _is_small(node.right)
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return isinstance(node.op, _ARITHMETIC)
    if isinstance(node, ast.Compare):
        return all(isinstance(each, _COMPARISONS) for each in node.ops)
    return isinstance(node, (ast.Load, ast.Pow, ast.keyword, *_ARITHMETIC, *_COMPARISONS))


def _is_small(node: ast.expr) -> bool:
    """Tell whether an exponent is a small number, written plainly or as Integer(2): others take endless time."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]
    return isinstance(node, ast.Constant) and node.value in range(_LARGEST_EXPONENT + 1)
