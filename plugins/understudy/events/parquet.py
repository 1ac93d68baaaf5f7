"""Opens Parquet files for DuckDB, wherever fsspec can reach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

__all__ = ["filesystem", "read_parquet"]


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    from fsspec.core import url_to_fs

    found: tuple[Any, str] = url_to_fs(url)
    return found


def read_parquet(connection: duckdb.DuckDBPyConnection, addresses: Sequence[str]) -> str:
    """Return Parquet files as an SQL relation, in their order.

    Args:
        connection: Where it will be used; file systems that the addresses need are made known to it.
        addresses: Local paths or URLs, at least one.
    """
    for protocol in {
        address.partition("://")[0]: address for address in addresses if "://" in address
    }.items():
        if not connection.filesystem_is_registered(protocol[0]):
            connection.register_filesystem(filesystem(protocol[1])[0])
    listed = ", ".join("'" + address.replace("'", "''") + "'" for address in addresses)
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)"
