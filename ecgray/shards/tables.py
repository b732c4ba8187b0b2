"""Parquet files, read as the table they must be: names and types of columns compared, no value missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ecgray.errors import EcgrayError

Kind = Literal["integer", "number", "text"]

_IS: dict[str, Any] = {
    "integer": pa.types.is_integer,
    "number": lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
}


def read_table(
    source: Path | BinaryIO,
    columns: pa.Schema | Mapping[str, Kind],
    *,
    more: tuple[str, Kind | pa.DataType] | None = None,
    name: object = None,
    advice: str,
) -> pa.Table:
    """The columns of a Parquet file, without nulls and without what another program noted beside them.

    ``columns``: the exact schema, or kind of each column; ``more``: every other column whose name begins so is read
    too, and must be of that kind. ``name`` stands for the file in messages. Raises EcgrayError when the file is
    missing, not whole, or lacks a column, and for one of another type or with a missing value.
    """
    called = source if name is None else name
    try:
        file = pq.ParquetFile(source)
        found = file.schema_arrow
        kinds: dict[str, Any] = (
            {field.name: field.type for field in columns} if isinstance(columns, pa.Schema) else dict(columns)
        )
        if more is not None:
            kinds |= {column: more[1] for column in found.names if column.startswith(more[0]) and column not in kinds}
        for column, kind in kinds.items():
            if found.names.count(column) != 1:
                raise EcgrayError(
                    f"'{called}' must have one column {column}, got {found.names.count(column)}; {advice}."
                )
            got = found.field(column).type
            if not (_IS[kind](got) if isinstance(kind, str) else got.equals(kind)):
                raise EcgrayError(f"'{called}' must hold {kind} in the column {column}, got {got}; {advice}.")
        table = file.read(columns=list(kinds), use_threads=True).replace_schema_metadata(None)
        table.validate(full=True)
        if len(table) != file.metadata.num_rows:
            raise EcgrayError(
                f"'{called}' must have {file.metadata.num_rows} rows in each column, got {len(table)}; {advice}."
            )
        for column in kinds:
            values = table[column].combine_chunks()
            nulls = values.null_count
            if pa.types.is_fixed_size_list(values.type) or pa.types.is_list(values.type):
                nulls += values.flatten().null_count
            if nulls:
                raise EcgrayError(
                    f"'{called}' must have a value in each row of {column}, got {nulls} missing; {advice}."
                )
    except EcgrayError:
        raise
    except (OSError, pa.ArrowException, OverflowError, ValueError) as error:  # ValueError: names that are no text
        reason = " ".join(str(error).split())[:160]
        raise EcgrayError(f"'{called}' must be a whole Parquet file, got: {reason}; {advice}.") from error
    return table.select(list(kinds))
