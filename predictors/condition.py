"""Conditions on the rows of a table, such as `latency_ms < 2 and params < 5e5`, as safe SQL.

The text is cut into tokens, every token is checked against what a condition may hold, and the SQL is written anew
from the tokens: nothing the user typed reaches the database but columns that exist, numbers and quoted text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from search_spaces.errors import ConfigError, did_you_mean

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<name>[A-Za-z_]\w*(?:\.\w+|\[\d+\])*|`[^`]+`)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<sign><=|>=|<>|!=|==|[<>=+\-*/%(),])
    )""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "between", "in", "is", "null", "true", "false"})
_EXAMPLE = "for example: latency_ms < 2 and params < 5e5"


def to_sql(condition: str, columns: Collection[str]) -> str:
    """The condition as an SQL expression over quoted columns.

    Allowed are columns (`stage0.depth` and `arch[0]` as they stand, any other name in backticks), numbers, text in
    quotes, comparisons, `+ - * / %`, `and`, `or`, `not`, `between`, `in (...)`, `is null`, and parentheses. Whether
    they make sense together is for the database to say.

    Raises:
        ConfigError: anything else, with the nearest column for an unknown name.

    >>> to_sql("latency_ms < 2 and not params >= 5e5", ["latency_ms", "params"])
    '"latency_ms" < 2 AND NOT "params" >= 5e5'
    """
    parts: list[str] = []
    depth = 0
    for kind, token in _tokens(condition):
        if kind == "name":
            parts.append(_name(token, columns))
        elif kind == "text":
            quote = token[0]
            plain = token[1:-1].replace(2 * quote, quote)
            parts.append("'" + plain.replace("'", "''") + "'")
        elif token == "(":
            if parts and parts[-1].startswith('"'):
                raise ConfigError(
                    f"condition {condition!r} calls a function; only columns and signs are allowed, {_EXAMPLE}"
                )
            depth += 1
            parts.append(token)
        else:
            depth -= token == ")"
            if depth < 0:
                break
            parts.append("=" if token == "==" else token)
    if depth:
        raise ConfigError(f"condition {condition!r} has a parenthesis without its partner; {_EXAMPLE}")
    if not parts:
        raise ConfigError(f"the condition is empty; leave it out, or write one, {_EXAMPLE}")
    return " ".join(parts)


def _tokens(condition: str) -> Iterator[tuple[str, str]]:
    position, text = 0, condition.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise ConfigError(f"condition {condition!r} cannot be read at {text[position:].strip()[:20]!r}; {_EXAMPLE}")
        yield found.lastgroup, found[found.lastgroup]
        position = found.end()


def quoted(column: str) -> str:
    """A column's name as SQL holds it."""
    return '"' + column.replace('"', '""') + '"'


def _name(token: str, columns: Collection[str]) -> str:
    name = token.strip("`")
    if name in columns:
        return quoted(name)
    if token.lower() in _WORDS:
        return token.upper()
    raise ConfigError(f"the table has no column {name!r}: {did_you_mean(name, columns)}")
