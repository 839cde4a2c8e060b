"""One ONNX graph, ready to run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from penstock.search.encoding.encoder import Vectors, unusable

Feed = npt.NDArray[np.int64] | npt.NDArray[np.float32]

FATAL_ONLY = 4  # onnxruntime writes to stderr what it raises anyway


class Session:
    """Runs a graph on `threads` threads of its own (1: on the caller's). Any number of callers at the same time."""

    def __init__(self, path: Path, threads: int, graph: bytes | None = None) -> None:
        """`graph`: what is run in place of the file's own."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        # Threads that spin while they wait took twice the CPU time for one query, from cores that others need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.path = path
        try:
            self._session = onnxruntime.InferenceSession(graph or path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common below this one
            raise unusable(f"{path} cannot be loaded as an ONNX graph; export it again ({_line(error)})") from error
        self.inputs: dict[str, tuple[int | None, ...]] = {
            each.name: tuple(size if isinstance(size, int) else None for size in each.shape)
            for each in self._session.get_inputs()
        }
        self.outputs: tuple[str, ...] = tuple(each.name for each in self._session.get_outputs())

    def require(self, *, inputs: set[str], optional: set[str], output: str) -> None:
        """Raises Conflict unless the graph takes `inputs`, no others than `optional` beside, and gives `output`."""
        taken = set(self.inputs)
        if not inputs <= taken <= inputs | optional or output not in self.outputs:
            raise unusable(
                f"{self.path} takes {sorted(taken)} and gives {sorted(self.outputs)}, but must take {sorted(inputs)} "
                f"(may take {sorted(optional)}) and give {output}; export it again"
            )

    def run(self, output: str, feeds: Mapping[str, Feed]) -> Vectors:
        """The output of this name; of `feeds` only what the graph takes is given to it."""
        given = {name: feed for name, feed in feeds.items() if name in self.inputs}
        try:
            (found,) = self._session.run([output], given)
        except Exception as error:
            raise unusable(f"{self.path} cannot be run; export it again ({_line(error)})") from error
        if not isinstance(found, np.ndarray) or found.dtype != np.float32:
            raise unusable(f"{self.path}: {output} must be of 32-bit floats; export it again")
        return found


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
