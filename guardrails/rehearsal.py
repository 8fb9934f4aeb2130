"""The way back, tried before it is needed: a champion restored from the store and compared to the byte.

Invariants:
- What is compared is a copy that was written out of the store into a scratch folder of its own, read back and
  digested anew; neither the store's word nor a look at the file in place is enough.
- The scratch folder is gone afterwards, whatever happened; what a killed process left, ``gc`` removes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from guardrails.canonical import Digest, digest, digest_file
from guardrails.errors import DeniedError, InterlockError
from guardrails.registry import SCRATCH, ArtifactStore, TreeEntry, encode_manifest


def rehearse(store: ArtifactStore, champion: Digest) -> Digest:
    """Restore a champion in a scratch folder; the digest of what stands there then.

    Costs one copy of the model on the store's disk and one reading of that copy; no lock is held meanwhile.

    Raises:
        DeniedError: it cannot be restored (missing, damaged, no room): a promotion could not be rolled back.
    """
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=store.root))
    except OSError as error:
        raise _impossible(champion, f"{store.root} cannot be written: {error.strerror}") from None
    try:
        store.checkout(champion, folder / "restored")
        return _digest_of(folder / "restored")
    except OSError as error:
        raise _impossible(champion, f"{error.strerror}") from None
    except InterlockError as error:
        raise _impossible(champion, error.message) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest_of(folder: Path) -> Digest:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return digest(
        encode_manifest([
            TreeEntry(path.relative_to(folder).as_posix(), path.stat().st_size, digest_file(path).hex)
            for path in files
        ])
    )  # fmt: skip


def _impossible(champion: Digest, why: str) -> DeniedError:
    return DeniedError(
        f"the champion {champion.short} could not be restored, so a promotion could not be rolled back: {why}",
        hint="`interlock log verify` names what is damaged; restore it from a backup",
    )
