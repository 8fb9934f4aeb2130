"""Model directories: what may lie in them, how they are loaded, what their tensors are.

Invariants:
- Weights come from safetensors files only; no pickle is opened and no code of a model is run.
- Nothing is looked up on a network.
- An untrusted directory is loaded with a trusted configuration: its own is only compared.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.canonical import Digest, digest, digest_file, encode
from guardrails.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "config.json"
WEIGHTS_SUFFIX = ".safetensors"
PLAIN_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".md")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


def prepare_runtime() -> int:
    """Make torch quiet, offline and single-threaded unless the environment says otherwise.

    Returns the number of threads. More threads than free cores make it several times slower.
    """
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    import transformers

    try:
        threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")))
    except ValueError:
        threads = 1
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", FutureWarning)  # of one library about another; nothing to act on
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return threads


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in order of name.

    Raises:
        InvalidInputError: There are none, or one is a link or no regular file.
    """
    files = sorted(path for path in directory.glob(f"*{WEIGHTS_SUFFIX}") if path.name[0] != ".")
    if not files:
        raise InvalidInputError(f"{directory}: no safetensors weights")
    for path in files:
        if path.is_symlink() or not path.is_file():
            raise InvalidInputError(f"{path}: not a regular file")
    return files


def foreign_files(directory: Path) -> list[str]:
    """Names in a model directory that are neither safetensors nor plain configuration."""
    allowed = (WEIGHTS_SUFFIX, *PLAIN_SUFFIXES)
    return sorted(
        path.name
        for path in directory.iterdir()
        if path.is_symlink() or not path.is_file() or path.suffix not in allowed
    )


def tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model directory, in order of name, one at a time in memory."""
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        places: dict[str, Any] = {}
        for path in weight_files(directory):
            try:
                archive = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise InvalidInputError(f"{path.name}: not a safetensors file: {error}") from None
            places.update((name, archive) for name in archive.keys())  # noqa: SIM118 - not a mapping
        for name in sorted(places):
            yield name, places[name].get_tensor(name)


def shapes(directory: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (dtype, shape) of every tensor, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in weight_files(directory):
        try:
            with safe_open(path, framework="pt") as archive:
                for name in archive.keys():  # noqa: SIM118 - not a mapping
                    if name in found:
                        raise InvalidInputError(f"{path.name}: tensor {name} stands in two files")
                    piece = archive.get_slice(name)
                    found[name] = (str(piece.get_dtype()), tuple(piece.get_shape()))
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(f"{path.name}: not a safetensors file: {error}") from None
    return found


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration as it stands; a configuration that asks for its own code is refused."""
    try:
        config = json.loads((directory / CONFIG).read_text("utf-8"))
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{directory.name}/{CONFIG}: {error}") from None
    if not isinstance(config, dict):
        raise InvalidInputError(f"{directory.name}/{CONFIG}: not a JSON object")
    if "auto_map" in config:
        raise InvalidInputError(f"{directory.name}/{CONFIG}: asks to run code of its own (auto_map)")
    return config


@dataclass(frozen=True)
class Architecture:
    """How large a model is: the width of what layers hand on and of what they compute inside, layers, vocabulary.

    ``remembered``: how many numbers a layer remembers of a token for those after it (its keys and values).
    """

    width: int
    inner: int
    layers: int
    vocabulary: int
    remembered: int


def architecture(directory: Path) -> Architecture | None:
    """The sizes that a model's configuration states, whatever its family calls them; None where it does not."""
    from transformers import AutoConfig

    read_config(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
    text = config.get_text_config()
    found = [getattr(text, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    sizes = [size for size in found if isinstance(size, int) and size > 0]
    if len(sizes) < len(found):
        return None
    width, layers, vocabulary = sizes
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
    heads = getattr(text, "num_attention_heads", None) or 1
    head = getattr(text, "head_dim", None) or width // heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    return Architecture(width, int(inner), layers, vocabulary, 2 * int(groups) * int(head))


def directory_digest(directory: Path) -> Digest:
    """One digest over the names and bytes of every file of a model directory."""
    files = {path.name: str(digest_file(path)) for path in sorted(directory.iterdir()) if path.is_file()}
    return digest(encode(files))


def load_model(directory: Path, dtype: torch.dtype, *, config_from: Path | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode, read from safetensors.

    Args:
        directory: Where the weights lie.
        dtype: What the weights are computed in; what is stored does not change.
        config_from: A trusted directory whose configuration is used instead of ``directory``'s own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    trusted = config_from or directory
    read_config(trusted)
    weight_files(directory)
    try:
        config = AutoConfig.from_pretrained(trusted, local_files_only=True, trust_remote_code=False)
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"{directory.name}: cannot be loaded: {str(error).splitlines()[0]}") from None
    _require_complete(directory, loading)
    return model.eval().requires_grad_(False)


def _require_complete(directory: Path, loading: dict[str, Any]) -> None:
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(what):
            some = sorted(str(name) for name in loading[what])[0]
            raise InvalidInputError(f"{directory.name}: {what.replace('_', ' ')}: {some} and perhaps others")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a trusted model directory; None where there is none."""
    from transformers import AutoTokenizer

    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(f"{directory.name}: tokenizer: {str(error).splitlines()[0]}") from None


def compute_dtype(wanted: str) -> torch.dtype:
    """The dtype to compute in: as named, or for ``auto`` the faster one that this processor has.

    bfloat16 is two to four times faster where the processor multiplies it natively, and several
    times slower where it does not.
    """
    import torch

    if wanted == "auto":
        capability = torch.cpu.get_capabilities()
        return (
            torch.bfloat16 if capability.get("amx_bf16") or capability.get("avx512_bf16") else torch.float32
        )
    named = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if wanted not in named:
        raise InvalidInputError(f"dtype {wanted!r:.20} is none of auto, bfloat16, float32")
    return named[wanted]
