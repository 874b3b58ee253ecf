"""The lookup table: predictions and costs of a whole space, one row an architecture, as one Parquet file.

Rows are written as they come and read by DuckDB straight from the file, so neither side holds the table in memory.
What made the table, and where each column comes from, stands in the file's own metadata and in every row.
"""

from .columns import Direction, choice_columns, now, table_metadata, table_schema
from .front import pareto
from .reading import LookupTable
from .writing import ROW_GROUP, CostSources, TableWriter, build_rows, merge_parts

__all__ = [
    "ROW_GROUP",
    "CostSources",
    "Direction",
    "LookupTable",
    "TableWriter",
    "build_rows",
    "choice_columns",
    "merge_parts",
    "now",
    "pareto",
    "table_metadata",
    "table_schema",
]
