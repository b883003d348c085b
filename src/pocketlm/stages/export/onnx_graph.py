"""A graph of standard ONNX operators (opset 17), and matrices in it as float32 or 8-bit integers.

8 bits are those of onnxruntime's dynamic quantisation: a matrix keeps one scale for each of its
outputs, max |w| / 127; what is multiplied with it is brought to unsigned 8 bits at run time, with
one scale and zero point for all of it (DynamicQuantizeLinear, MatMulInteger; ONNX operators).
Shapes: I inputs, O outputs of a matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pocketlm.errors import UserError

if TYPE_CHECKING:
    from pocketlm.model.child import Child

FloatArray = npt.NDArray[np.float32]
Precision = Literal["f32", "int8"]

OPSET, IR_VERSION = 17, 8
"""Read by every onnxruntime since 1.13."""

FLOAT, BOOL = 1, 9
"""Types as ONNX numbers them."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One matrix of the file: tensors of the child that read the same input, side by side."""

    name: str
    sources: tuple[str, ...]
    order_O: npt.NDArray[np.int64] | None = None
    """Row of the child's (stacked) tensors behind each output; None: as they are."""

    def values_IO(self, child: "Child") -> FloatArray:
        """The child's numbers as the file has them."""
        rows_OI = np.concatenate([child.tensors[name].numpy() for name in self.sources])
        if self.order_O is not None:
            rows_OI = rows_OI[self.order_O]
        return np.ascontiguousarray(rows_OI.T)

    def tensors(self, values_IO: FloatArray, child: "Child") -> dict[str, FloatArray]:
        """The inverse: the child's tensors that these numbers are."""
        rows_OI = values_IO.T
        if self.order_O is not None:
            rows_OI = rows_OI[np.argsort(self.order_O)]
        sizes = [child.tensors[name].shape[0] for name in self.sources]
        parts = np.split(rows_OI, np.cumsum(sizes)[:-1])
        return dict(zip(self.sources, map(np.ascontiguousarray, parts), strict=True))


class Graph:
    """Nodes and numbers in the order they are added; the same calls give the same bytes."""

    def __init__(self, child: "Child", precision: Precision) -> None:
        self.child, self.precision = child, precision
        self.nodes: list[Any] = []
        self.numbers: dict[str, npt.NDArray[Any]] = {}
        self.matrices: dict[str, Matrix] = {}
        self._rounded: dict[str, tuple[str, ...]] = {}

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; its name."""
        (output,) = self.nodes_of(operator, inputs, 1, **attributes)
        return output

    def nodes_of(
        self, operator: str, inputs: Sequence[str], num_outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs; their names."""
        onnx, count = import_onnx(), len(self.nodes)
        outputs = tuple(f"{operator}.{count}.{i}" for i in range(num_outputs))
        name = f"{operator}.{count}"
        made = onnx.helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes)
        self.nodes.append(made)
        return outputs

    def rename(self, output: str, name: str) -> None:
        """Make the last node's `output` an output of the graph, called `name` from here on."""
        places = self.nodes[-1].output
        places[list(places).index(output)] = name

    def constant(self, name: str, values: object, dtype: type = np.float32) -> str:
        """Numbers under a name; the same name always holds the same numbers."""
        self.numbers.setdefault(name, np.asarray(values, dtype=dtype))
        return name

    def whole(self, *values: int) -> str:
        """A vector of whole numbers: shapes, axes, sizes."""
        return self.constant("whole." + ".".join(map(str, values)), values, np.int64)

    def split(self, x: str, sizes: Sequence[int], axis: int) -> tuple[str, ...]:
        """`x` in parts of `sizes` along `axis`."""
        return self.nodes_of("Split", (x, self.whole(*sizes)), len(sizes), axis=axis)

    def linear(self, x: str, matrix: Matrix) -> str:
        """x @ matrix, plus the biases of its sources where the child has them."""
        self._store(matrix)
        if self.precision == "f32":
            out = self.node("MatMul", x, matrix.name)
        else:
            out = self._integer_product(x, matrix.name)
        biases = [name.removesuffix("weight") + "bias" for name in matrix.sources]
        if not all(name in self.child.tensors for name in biases):
            return out
        bias_O = np.concatenate([self.child.tensors[name].numpy() for name in biases])
        if matrix.order_O is not None:
            bias_O = bias_O[matrix.order_O]
        return self.node("Add", out, self.constant(matrix.name + ".bias", bias_O))

    def columns(self, ids: str, matrix: Matrix) -> str:
        """The columns of `matrix` that whole numbers [B, T] name, as [B, T, I]."""
        self._store(matrix)
        picked = self.node("Gather", matrix.name, ids, axis=1)  # [I, B, T]
        picked = self.node("Transpose", picked, perm=[1, 2, 0])
        if self.precision == "f32":
            return picked
        scale = self.node("Gather", matrix.name + ".scale", ids, axis=0)
        scale = self.node("Unsqueeze", scale, self.whole(-1))
        return self.node("Mul", self.node("Cast", picked, to=FLOAT), scale)

    def _store(self, matrix: Matrix) -> None:
        if matrix.name in self.matrices:
            return
        self.matrices[matrix.name] = matrix
        values_IO = matrix.values_IO(self.child)
        if self.precision == "f32":
            self.numbers[matrix.name] = values_IO
            return
        largest_O = np.abs(values_IO).max(axis=0)
        scale_O = np.where(largest_O > 0, largest_O / np.float32(127), np.float32(1))
        self.numbers[matrix.name] = np.rint(values_IO / scale_O).astype(np.int8)
        self.numbers[matrix.name + ".scale"] = scale_O.astype(np.float32)

    def _integer_product(self, x: str, matrix: str) -> str:
        """As onnxruntime fuses it into one operation when it loads the file."""
        if x not in self._rounded:
            self._rounded[x] = self.nodes_of("DynamicQuantizeLinear", (x,), 3)
        rounded, scale, zero = self._rounded[x]
        product = self.node("MatMulInteger", rounded, matrix, zero)
        scales = self.node("Mul", scale, matrix + ".scale")
        return self.node("Mul", self.node("Cast", product, to=FLOAT), scales)


def import_onnx() -> Any:
    """The `onnx` package, with onnxruntime there to run its files; else `UserError`."""
    try:
        import onnx

        if find_spec("onnxruntime") is None:
            raise ModuleNotFoundError("onnxruntime")
    except ModuleNotFoundError:
        raise UserError(
            "[export] formats: onnx files need onnx and onnxruntime: pip install 'pocketlm[onnx]'"
        ) from None
    return onnx
