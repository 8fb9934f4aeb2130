"""Where a learner's job computes: on the processor, or on the one GPU that the job is shown.

Invariants:
- A job that was given a GPU computes there or fails before it reads a model; it never falls back on the processor.
- A model is made and changed on the processor until it is whole, then moved; batches follow it (``model.device``).
- What is drawn at random is drawn on the processor: the same numbers, whatever computes with them.

A job is shown one GPU at most, which is the first one that it can see, whatever its number on the machine.
"""

from __future__ import annotations

from guardrails.errors import InvalidInputError, JobFailedError

CPU, GPU = "cpu", "cuda:0"
DEVICES = (CPU, GPU)


def require(device: str) -> None:
    """Return if PyTorch can compute there.

    Raises:
        InvalidInputError: it is no device that a job can be given.
        JobFailedError: there is no such device for this job.
    """
    if device not in DEVICES:
        raise InvalidInputError(f"device {device!r:.40} is none of {', '.join(DEVICES)}")
    if device == CPU:
        return
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise JobFailedError(
            f"{device}: PyTorch {torch.__version__} finds no GPU; it is {built}",
            hint="install a PyTorch built for the driver, or take gpu out of [models.NAME] to train on the processor",
        )


def memory_bytes(device: str, limit: int) -> int:
    """What a learner may plan with: the job's limit, or of a GPU what is free there now, which nothing limits."""
    if device == CPU:
        return limit
    import torch

    return max(1, int(torch.cuda.mem_get_info(device)[0]))  # 0 would say that there is no limit
