"""Whether code that is not the log's own may run inside the gate's transactions, and change rows there.

Invariants:
- What is not known for the log's own counts as foreign. It is not refused: all rows are then compared each time.
- It is enough to ask where all rows are compared: whoever brings such code later needs a transaction of his own, and
  that is seen (``database.state``).
"""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from guardrails.decision_log import database

_APPEND_ONLY = [table.name for table in (database.entries, database.nodes, database.checkpoints)]
# What the gate writes while it appends. A cosignature is kept in a transaction that is not the gate's.
_WRITTEN = [*_APPEND_ONLY, database.openings.name, database.projection.name]


def possible(connection: Connection) -> bool:
    """Whether a row may do more than be kept where the gate puts it; also where that cannot be told."""
    raw = connection.connection.driver_connection
    return _in_sqlite(raw) if connection.dialect.name == "sqlite" else _in_postgresql(raw)


def _in_sqlite(raw: Any) -> bool:
    """Any trigger or view, and any table or index (which may say that other rows give way), but those made here."""
    return _definitions(raw) != _own_definitions()


def _definitions(raw: Any) -> set[tuple[str, ...]]:
    found = raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {row for row in found if row[0] in ("trigger", "view") or row[2] in _WRITTEN}


@functools.cache
def _own_definitions() -> set[tuple[str, ...]]:
    engine = sa.create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            database.metadata.create_all(connection)
            return _definitions(connection.connection.driver_connection)
    finally:
        engine.dispose()


def _in_postgresql(raw: Any) -> bool:
    schemas, foreign = raw.execute(_FOREIGN, {"written": _WRITTEN, "append_only": _APPEND_ONLY}).fetchone()
    # Names are looked for in the schemas of this list: were another one first, "=" could be anybody's, above all here.
    first = next((name for name in schemas if not name.startswith("pg_temp")), "")
    return bool(foreign) or first != "pg_catalog"


# Whatever was there when the database was made has a number below 16384. An operator or function of somebody's fits
# better than the server's own of the same name where its types do, so that none is allowed beside one in use.
# 58: BEFORE UPDATE OR DELETE OR TRUNCATE, once a statement; the gate does nothing of it to tables that are append-only.
_FOREIGN = """
    WITH written AS MATERIALIZED (
        SELECT name, CAST(pg_catalog.to_regclass(name) AS oid) AS id
        FROM pg_catalog.unnest(CAST(%(written)s AS text[])) AS name
    )
    SELECT CAST(pg_catalog.current_schemas(true) AS text[]),
        EXISTS (SELECT FROM written LEFT JOIN pg_catalog.pg_class AS t ON t.oid = id WHERE (
            t.relkind = 'r' AND t.relpersistence = 'p' AND t.relam < 16384 AND NOT (
                t.relhasrules OR t.relrowsecurity OR t.relhassubclass OR t.relispartition)
        ) IS NOT TRUE)
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger JOIN written ON tgrelid = id
            WHERE tgtype <> 58 OR name <> ALL (CAST(%(append_only)s AS text[])))
        OR EXISTS (SELECT FROM pg_catalog.pg_constraint JOIN written ON conrelid = id
            WHERE contype NOT IN ('p', 'u', 'n'))
        OR EXISTS (SELECT FROM pg_catalog.pg_attribute JOIN written ON attrelid = id
            WHERE attnum > 0 AND NOT attisdropped AND (atthasdef OR attidentity <> '' OR atttypid NOT IN (
                'pg_catalog.int4'::pg_catalog.regtype, 'pg_catalog.int8'::pg_catalog.regtype,
                'pg_catalog.varchar'::pg_catalog.regtype, 'pg_catalog.bytea'::pg_catalog.regtype)))
        OR EXISTS (SELECT FROM pg_catalog.pg_index JOIN written ON indrelid = id
            JOIN pg_catalog.pg_class AS x ON x.oid = indexrelid
            WHERE indexprs IS NOT NULL OR indpred IS NOT NULL OR x.relam >= 16384
                OR 16384 <= ANY (CAST(indclass AS oid[])))
        OR EXISTS (SELECT FROM pg_catalog.pg_operator AS o WHERE o.oid >= 16384
            AND pg_catalog.pg_operator_is_visible(o.oid)
            AND oprname IN (SELECT oprname FROM pg_catalog.pg_operator WHERE oid < 16384))
        OR EXISTS (SELECT FROM pg_catalog.pg_proc AS f WHERE f.oid >= 16384
            AND pg_catalog.pg_function_is_visible(f.oid)
            AND proname IN (SELECT proname FROM pg_catalog.pg_proc WHERE oid < 16384))
        OR pg_catalog.pg_is_in_recovery()
"""
