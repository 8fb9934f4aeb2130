"""Where cosignatures are kept: a table beside the checkpoints that they speak of.

Invariants: what stands here is a claim until somebody verifies it under a witness's key; a log written before
there were witnesses has no such table, and gets it with its first cosignature.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Column, Connection, Table, insert, select

from guardrails.decision_log import database

cosigned = Table(
    "cosignatures",
    sa.MetaData(),
    Column("size", database.checkpoints.c.size.type, primary_key=True, autoincrement=False),
    Column("witness", database.checkpoints.c.note.type, primary_key=True),
    Column("line", database.checkpoints.c.note.type, nullable=False),
)


def lines(connection: Connection, size: int) -> str:
    """The signature lines that witnesses gave for the checkpoint of a size, by witness."""
    if not sa.inspect(connection).has_table(cosigned.name):
        return ""
    query = select(cosigned.c.line).where(cosigned.c.size == size).order_by(cosigned.c.witness)
    return "".join(connection.execute(query).scalars())


def sizes(connection: Connection) -> list[int]:
    """The sizes that some witness has cosigned, ascending."""
    if not sa.inspect(connection).has_table(cosigned.name):
        return []
    query = select(cosigned.c.size).distinct().order_by(cosigned.c.size)
    return list(connection.execute(query).scalars())


def everything(connection: Connection) -> Iterator[tuple[int, str, str]]:
    """Size, witness and line of all, by size and witness."""
    if sa.inspect(connection).has_table(cosigned.name):
        for row in connection.execute(select(cosigned).order_by(cosigned.c.size, cosigned.c.witness)):
            yield row.size, row.witness, row.line


def keep(connection: Connection, size: int, witness: str, line: str) -> None:
    """Keep a line; the first that a witness gave for a size stays, for it says most about time."""
    cosigned.metadata.create_all(connection)
    known = select(cosigned.c.line).where(cosigned.c.size == size, cosigned.c.witness == witness)
    if connection.execute(known).scalar() is None:
        connection.execute(insert(cosigned).values(size=size, witness=witness, line=line))
