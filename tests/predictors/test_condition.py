"""Conditions: what is rewritten, and what never reaches a database."""

from __future__ import annotations

import pytest

from predictors.condition import to_sql
from search_spaces.errors import ConfigError

COLUMNS = ("code", "accuracy", "latency_ms", "params", "stage0.depth", "arch[0]", "two words", 'a "b"')


@pytest.mark.parametrize(
    ("condition", "sql"),
    [
        ("latency_ms<2", '"latency_ms" < 2'),
        ("params == 5e5 OR not accuracy >= .9", '"params" = 5e5 OR NOT "accuracy" >= .9'),
        ("params between 1 and 2", '"params" BETWEEN 1 AND 2'),
        ("code in ('01', \"it's\")", "\"code\" IN ( '01' , 'it''s' )"),
        ("(params + 1) * 2 < -3", '( "params" + 1 ) * 2 < - 3'),
        ("accuracy is not null", '"accuracy" IS NOT NULL'),
        ("code = 'a'' or 1=1'", "\"code\" = 'a'' or 1=1'"),
        ("stage0.depth in (1, 2) and arch[0]=3", '"stage0.depth" IN ( 1 , 2 ) AND "arch[0]" = 3'),
        ("`params` < 1 and `two words` > 1", '"params" < 1 AND "two words" > 1'),
        ('`a "b"` = 1', '"a ""b""" = 1'),
    ],
)
def test_allowed(condition: str, sql: str) -> None:
    assert to_sql(condition, COLUMNS) == sql


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("latency < 2", "did you mean 'latency_ms'"),
        ("params < 1; drop table x", "cannot be read"),
        ("read_text('/etc/passwd') = 'x'", "no column 'read_text'"),
        ("params in (select 1)", "no column 'select'"),
        ("params(1) < 2", "calls a function"),
        ("1) or (1 = 1", "parenthesis"),
        ("(params < 1", "parenthesis"),
        ("code = 'open", "cannot be read"),
        ("params < 1e5x", "cannot be read"),
        ("params < $path", "cannot be read"),
        ("   ", "empty"),
        ("`parms` < 1", "no column 'parms': did you mean 'params'"),
        ("stage0.dept = 1", "did you mean 'stage0.depth'"),
        ("arch[1] = 1", "did you mean"),
        ("`params < 1", "cannot be read"),
    ],
)
def test_refused(condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        to_sql(condition, COLUMNS)


@pytest.mark.parametrize("condition", ["params < 1 -- and", "params /* */ < 1"])
def test_no_comment_survives(condition: str) -> None:
    """Their signs are operators here; that the rest makes no sense is for the database to say."""
    sql = to_sql(condition, COLUMNS)
    assert "--" not in sql
    assert "/*" not in sql
