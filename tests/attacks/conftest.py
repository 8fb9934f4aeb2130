"""An interpreter for tests that run as a user who owns nothing."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _anyone_reaches(path: Path) -> bool:
    """Whether a user who owns nothing can read a file or folder and enter all folders above it."""
    mode = path.stat().st_mode
    return bool(mode & stat.S_IROTH) and all(
        above.stat().st_mode & stat.S_IXOTH for above in (*path.parents, path) if above.is_dir()
    )


@pytest.fixture(scope="session")
def readable_python() -> Iterator[Path | None]:
    """An interpreter with Interlock that every user can read: this one, or one of the system's; else None."""
    if _anyone_reaches(Path(sys.executable).resolve()) and _anyone_reaches(ROOT):
        yield Path(sys.executable)
        return
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    if not system.exists() or not all(_anyone_reaches(Path(path)) for path in (*packages, ROOT)):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="attacks-venv-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        subprocess.run([system, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        site = next((folder / "venv" / "lib").glob("python3*/site-packages"))
        (site / "here.pth").write_text("\n".join([str(ROOT), *packages]) + "\n")
        yield folder / "venv" / "bin" / "python"
    finally:
        shutil.rmtree(folder)
