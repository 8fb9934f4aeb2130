"""The decision log: every step of every proposal, signed, in one append-only Merkle tree.

Invariants:
- The log is the only source of truth; everything else is a projection that can be rebuilt from it.
- A record is an in-toto Statement v1 in a DSSE envelope, kept as the exact bytes that were signed.
- What was acknowledged is on disk, in the tree, and covered by a signed checkpoint.

    envelope    Statement <-> payload <-> DSSE envelope; the only place that knows the bytes
    sshsig      what people sign with, checkable with ``ssh-keygen -Y verify``
    keys        service keys and people's keys on disk; verifying their signatures
    merkle      RFC 6962 tree: root, proofs, appending in O(log n)
    checkpoint  C2SP signed tree heads
    tables      what a projection may read and write
    database    the SQL schema and its engine, SQLite or PostgreSQL
    snapshot    reading: entries, root, checkpoints, proofs
    transaction appending: records, tree and projection, all or none
    store       the log as a whole: made, opened, read, locked for one writer
"""
