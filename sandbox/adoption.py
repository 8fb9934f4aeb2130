"""From a configured base to a bundle in the artifact store, ready to be adopted as first champion.

Invariants: every base goes through the collector (safetensors only, no remote code, no links); a base that
is not yet in that form is converted in an isolated job. Nothing is adopted here: a root signs for that.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from guardrails.canonical import Digest
from guardrails.errors import ConfigError, JobFailedError
from guardrails.registry import ArtifactStore
from sandbox.config import ModelConfig
from sandbox.isolation.collector import MODEL, collect
from sandbox.isolation.spec import JobSpec, Limits, Mount
from sandbox.models import assistant
from sandbox.runner import Runner, wait

SHIPPED = Path(__file__).parent / "models"
MODEL_FILES = (".json", ".safetensors", ".txt", ".jinja")
CONVERSION_WALL_S = 600.0
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

Report = Callable[[str, float], None]


def base_bundle(
    model: ModelConfig, workspace: Path, store: ArtifactStore, runner: Runner, report: Report
) -> Digest:
    """Store a model's base as a bundle; returns its digest.

    Raises:
        ConfigError: ``base`` names nothing that is there.
        BundleError: The base holds what no bundle may hold.
    """
    jobs = workspace / "jobs"
    jobs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="adopt-", dir=jobs) as name:
        folder = Path(name)
        source = _source(model, workspace, folder, runner, report)
        (folder / "bundle").mkdir()
        collect(source, folder / "bundle" / "model", MODEL)
        return store.put_tree(folder / "bundle")


def shipped() -> list[str]:
    """The names after ``shipped:``. The assistant's files come with a package, those of the others are here."""
    return sorted(["assistant", *(path.parent.name for path in SHIPPED.glob("*/config.json"))])


def _source(model: ModelConfig, workspace: Path, folder: Path, runner: Runner, report: Report) -> Path:
    if model.base == "shipped:assistant":
        return _converted(folder, runner, report)
    if model.base.startswith("shipped:"):
        return _shipped(model.base.removeprefix("shipped:"), folder)
    source = workspace / model.base
    if (source / "config.json").is_file():
        return source
    if HUB_ID.fullmatch(model.base) and not source.exists():
        return _from_hub(model, folder, report)
    raise ConfigError(
        f"models.{model.name}: base {model.base!r} is not a Hugging Face directory (no config.json in {source})",
        hint=f"give a local directory, a hub id (owner/name), or shipped:NAME, of {', '.join(shipped())}",
    )


def _from_hub(model: ModelConfig, folder: Path, report: Report) -> Path:
    """A model by its hub id: from the local cache, else downloaded, because somebody asked for it by name.

    Only data files are asked for, and the collector checks what came; no code of the repository runs.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    target = folder / "hub"
    patterns = [f"*{suffix}" for suffix in MODEL_FILES]
    try:
        try:
            found = Path(snapshot_download(model.base, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            report(f"downloading {model.base}", 0.0)
            found = Path(snapshot_download(model.base, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"models.{model.name}: {model.base!r} could not be had from the hub: {str(error).splitlines()[0]:.200}",
            hint="check the name and the network, or give a local directory",
        ) from None
    target.mkdir()
    for path in found.iterdir():
        # The cache holds links to its blobs; the collector takes no links.
        if path.suffix in MODEL_FILES and path.is_file():
            shutil.copyfile(path, target / path.name)
    if not (target / "config.json").is_file():
        raise ConfigError(f"models.{model.name}: {model.base!r} holds no config.json", hint="is it a model?")
    return target


def _shipped(name: str, folder: Path) -> Path:
    """The model files of a shipped model, without the script that made them."""
    source = SHIPPED / name
    if not (source / "config.json").is_file():
        raise ConfigError(f"no model {name!r} is shipped", hint=f"shipped: {', '.join(shipped())}")
    target = folder / "shipped"
    target.mkdir()
    for path in source.iterdir():
        if path.suffix in MODEL_FILES:
            shutil.copyfile(path, target / path.name)
    return target


def _converted(folder: Path, runner: Runner, report: Report) -> Path:
    """SmolLM2 from its package's quantised file to a plain directory, in an isolated job."""
    report("converting the assistant's weights (once, about a minute)", 0.1)
    (folder / "out").mkdir()
    request = folder / "request.json"
    request.write_text('{"package": "/in/package", "out": "/out"}', encoding="ascii")
    spec = JobSpec(
        argv=("python", "-m", "sandbox.worker.convert", "/in/request.json"),
        inputs=(Mount(request, "/in/request.json"), Mount(assistant.locate(), "/in/package")),
        out=folder / "out",
        log=folder / "log.txt",
        limits=Limits(wall_s=CONVERSION_WALL_S),
        env={"OMP_NUM_THREADS": "1"},
    )
    outcome = wait(runner.start(spec, "strict"))
    if not outcome.ok:
        raise JobFailedError(
            f"converting the assistant failed: {outcome.killed or f'exit status {outcome.exit}'}",
            log_tail=outcome.log_tail,
            hint="see the end of the job's log above; `interlock sandbox doctor` checks isolation",
        )
    return folder / "out"
