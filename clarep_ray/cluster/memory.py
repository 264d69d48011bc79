"""Memory that is short is the machine's fault: work is tried again, then its unit given up; no picture is blamed."""

from __future__ import annotations

import errno
import gc
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from clarep_ray.cluster.attempts import less_memory, smaller_batch
from clarep_ray.config import EngineConfig
from clarep_ray.errors import UnitGivenUp

WORDS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What PyTorch says of memory in a plain RuntimeError: of the host's, CUDA's own, cuBLAS's and cuDNN's."""
ON_GPU = ("CUDA", "CUBLAS", "CUDNN")
PAUSE_S = 1.0
"""Before the second attempt, and twice as long before each one after it: others may need their memory for less."""
Result = TypeVar("Result")


def is_short_of_memory(error: BaseException) -> bool:
    """Say whether an error is that of memory which the machine, or its GPU, does not have now."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which may not have been imported
    return isinstance(error, RuntimeError) and (named or any(word in str(error) for word in WORDS))


def while_memory_is_short(what: str, engine: EngineConfig, work: Callable[[], Result]) -> Result:
    """Return what `work` does, which is tried again where memory is short; other errors are raised as they are.

    Raises UnitGivenUp, naming `what` and the settings that help, after `engine.max_attempts` attempts.
    """
    said = ""
    for attempt in range(engine.max_attempts):
        if attempt:
            _release()
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            return work()
        except Exception as error:
            if not is_short_of_memory(error):
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise UnitGivenUp(f"memory was short {engine.max_attempts} times for {what}; {_what_helps(said, engine)}; {said}")


def _release() -> None:
    """Give back what the failed attempt held; its frames are gone once its error is."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _what_helps(said: str, engine: EngineConfig) -> str:
    if any(name in said.upper() for name in ON_GPU):
        batch = smaller_batch(engine)
        return f"a GPU's batch takes less with {batch}, and a GPU for each actor with --engine.gpus-per-actor 1"
    return f"what helps is {less_memory(engine)}"
