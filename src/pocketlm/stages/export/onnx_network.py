"""A child's network as ONNX nodes: what its transformers class computes, with the cache outside.

Inputs and outputs have the names that transformers.js, optimum and onnxruntime-genai use.
Positions follow from the mask, so sequences of a batch may be padded at either end, and every
layer caches all positions: a sliding window is only a mask.
Shapes: B sequences, T new tokens, P tokens in the cache, S = P + T; H heads, K key-value heads,
hd head dimension, R of them rotated; N = H + 2K; D hidden, F FFN neurons, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import UserError
from pocketlm.model.family import load_family
from pocketlm.model.network import hollow_network, model_config
from pocketlm.stages.export.onnx_graph import BOOL, FLOAT, Graph, Matrix

if TYPE_CHECKING:
    from pocketlm.model.child import Child

ACTIVATIONS = ("silu", "gelu")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "gpt_neox", "pangu_pi")
"""Those whose files were proven."""

_BY_LENGTH = ("dynamic", "longrope")
"""Rotary scalings whose frequencies change with the length of the text."""


def check_onnx_family(family: str) -> None:
    """Raise `UserError` for a family that has no onnx files."""
    if family not in FAMILIES:
        raise UserError(
            f"[export] formats: no onnx files for family {family!r}; it has {', '.join(FAMILIES)}"
        )


def write_network(graph: Graph) -> None:
    """Fill `graph` with its child's network; raises `UserError` for what has no place in it."""
    network = _Network(graph)
    graph.rename(network.logits(), "logits")


class _Network:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.tensors, self.shape = graph, graph.child.tensors, graph.child.shape
        self.family = load_family(self.shape.family)
        self.config = _config(graph.child)
        self.eps = getattr(self.config, "rms_norm_eps", None) or self.config.layer_norm_eps
        self.place = ""
        """Beginning of the names of this layer's tensors."""
        self._masks: dict[int | None, str] = {}
        self._positions()

    def logits(self) -> str:
        """[B, T, V]."""
        embedding = Matrix(name="embedding", sources=(self.family.embedding,))
        x = self.graph.columns("input_ids", embedding)
        row = next(row for row in self.family.tensors if row.per_layer)
        for layer in range(self.shape.layers):
            self.place = row.name.partition("{layer}")[0] + f"{layer}."
            x = self._layer(x, layer)
        last = next(r for r in self.family.tensors if r.part == "norms" and not r.per_layer)
        x = self._norm(x, last.name)
        head = Matrix(name="head", sources=(self.family.head.name,))
        return self.graph.linear(x, embedding if self.shape.tied else head)

    def _layer(self, x: str, layer: int) -> str:
        add = self._add
        if self.shape.family == "olmo2":
            attended = self._attention(x, layer)
            x = add(x, self._norm(attended, self.place + "post_attention_layernorm.weight"))
            return add(
                x, self._norm(self._ffn(x), self.place + "post_feedforward_layernorm.weight")
            )
        normed = self._norm(x, self.place + "input_layernorm.weight")
        mixed = add(x, self._attention(normed, layer))
        if self.shape.shortcut:
            narrow = self._gelu(self._linear(normed, "shortcut.in_proj"))
            mixed = add(mixed, self._linear(narrow, "shortcut.out_proj"))
        parallel = getattr(self.config, "use_parallel_residual", False)
        read = x if parallel else mixed
        fed = self._ffn(self._norm(read, self.place + "post_attention_layernorm.weight"))
        return add(mixed, fed)

    def _attention(self, x: str, layer: int) -> str:
        graph, shape = self.graph, self.shape
        heads, groups, width = shape.heads, shape.kv_heads, shape.head_dim
        qkv = self._heads(self._queries_keys_values(x))  # [B, N, T, hd]
        both, value = graph.split(qkv, (heads + groups, groups), axis=1)
        both = self._head_norm(both)
        if (
            getattr(self.config, "no_rope_layers", None) is None
            or self.config.no_rope_layers[layer]
        ):
            both = self._turn(both)
        query, key = graph.split(both, (heads, groups), axis=1)
        key = self._cached(key, layer, "key")  # [B, K, S, hd]
        value = self._cached(value, layer, "value")
        query = graph.node("Mul", query, graph.constant("scaling", width**-0.5))
        # The queries of a group as one matrix: keys and values are never repeated.
        query = graph.node("Reshape", query, graph.whole(0, groups, -1, width))
        scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = graph.node("Reshape", scores, graph.whole(0, heads, -1, 0))  # [B, H, T, S]
        shares = graph.node("Softmax", self._add(scores, self._mask(layer)), axis=-1)
        shares = graph.node("Reshape", shares, graph.whole(0, groups, -1, 0))
        mixed = graph.node("MatMul", shares, value)
        mixed = graph.node("Reshape", mixed, graph.whole(0, heads, -1, width))
        mixed = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", mixed, graph.whole(0, 0, heads * width))
        fused = self.shape.family == "gpt_neox"
        return self._linear(mixed, "attention.dense" if fused else "self_attn.o_proj")

    def _queries_keys_values(self, x: str) -> str:
        """[B, T, N hd]: all queries, all keys, all values."""
        heads, groups, width = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        if (
            self.shape.family == "gpt_neox"
        ):  # its rows are query, key, value of one head after another
            order = np.arange(heads * 3 * width).reshape(heads, 3, width).swapaxes(0, 1).reshape(-1)
            return self._linear(x, "attention.query_key_value", order_O=order)
        projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        qkv = self._linear(x, *projections)
        norm = self.place + "self_attn.q_norm.weight"
        if norm not in self.tensors or self.tensors[norm].numel() == width:
            return qkv
        sizes = (heads * width, groups * width, groups * width)
        query, key, value = self.graph.split(qkv, sizes, axis=-1)
        query = self._norm(query, norm)
        key = self._norm(key, self.place + "self_attn.k_norm.weight")
        return self.graph.node("Concat", query, key, value, axis=-1)

    def _heads(self, x: str) -> str:
        """[B, T, heads hd] -> [B, heads, T, hd]."""
        x = self.graph.node("Reshape", x, self.graph.whole(0, 0, -1, self.shape.head_dim))
        return self.graph.node("Transpose", x, perm=[0, 2, 1, 3])

    def _head_norm(self, both: str) -> str:
        """RMSNorm of each head of queries and keys [B, H + K, T, hd], where the family has it."""
        norm = self.place + "self_attn.q_norm.weight"
        if norm not in self.tensors or self.tensors[norm].numel() != self.shape.head_dim:
            return both
        query, key = self.graph.split(both, (self.shape.heads, self.shape.kv_heads), axis=1)
        query = self._norm(query, norm)
        key = self._norm(key, self.place + "self_attn.k_norm.weight")
        return self.graph.node("Concat", query, key, axis=1)

    def _turn(self, both: str) -> str:
        """Rotary position on the first R numbers of each head: pairs lie half of R apart."""
        graph, half = self.graph, self.half
        rest = self.shape.head_dim - 2 * half
        left, right, *others = graph.split(both, (half, half, *([rest] if rest else [])), axis=-1)
        cos, sin = self.cos, self.sin
        turned = graph.node("Sub", graph.node("Mul", left, cos), graph.node("Mul", right, sin))
        across = self._add(graph.node("Mul", right, cos), graph.node("Mul", left, sin))
        return graph.node("Concat", turned, across, *others, axis=-1)

    def _cached(self, new: str, layer: int, kind: str) -> str:
        """What is in the cache and `new` behind it: an output, and what this step reads."""
        graph, name = self.graph, f"present.{layer}.{kind}"
        whole = graph.node("Concat", f"past_key_values.{layer}.{kind}", new, axis=2)
        graph.rename(whole, name)
        return name

    def _ffn(self, x: str) -> str:
        if self.shape.family == "gpt_neox":
            wide = self._activation(self._linear(x, "mlp.dense_h_to_4h"))
            return self._linear(wide, "mlp.dense_4h_to_h")
        both = self._linear(x, "mlp.gate_proj", "mlp.up_proj")
        gate, up = self.graph.split(both, (self.shape.ffn, self.shape.ffn), axis=-1)
        act = self._series(gate) if self.shape.series else self._activation(gate)
        return self._linear(self.graph.node("Mul", act, up), "mlp.down_proj")

    def _series(self, gate: str) -> str:
        """PanGu-π's sum of SiLU(c (a g + b)); see model/pangu_pi.py."""
        terms = []
        for term in range(self.shape.series):
            gain = float(max(1, term))
            name = f"{self.place}mlp.act_fn.{term}."
            scale = gain * self.tensors[name + "scale"].numpy()
            shift = gain * self.tensors[name + "shift"].numpy()
            read = self.graph.node("Mul", gate, self.graph.constant(name + "scale", scale))
            terms.append(self._silu(self._add(read, self.graph.constant(name + "shift", shift))))
        total = terms[0]
        for own in terms[1:]:
            total = self._add(total, own)
        return total

    def _activation(self, x: str) -> str:
        return self._silu(x) if self.config.hidden_act == "silu" else self._gelu(x)

    def _silu(self, x: str) -> str:
        return self.graph.node("Mul", x, self.graph.node("Sigmoid", x))

    def _gelu(self, x: str) -> str:
        graph = self.graph
        error = graph.node("Erf", graph.node("Div", x, graph.constant("sqrt2", 2**0.5)))
        doubled = graph.node("Mul", x, self._add(error, graph.constant("one", 1)))
        return graph.node("Mul", doubled, graph.constant("half", 0.5))

    def _norm(self, x: str, name: str) -> str:
        """LayerNorm where there is a bias, else RMSNorm, in the form onnxruntime makes one of."""
        graph, bias = self.graph, name.removesuffix("weight") + "bias"
        gain = graph.constant(name, self.tensors[name].numpy())
        if bias in self.tensors:
            shift = graph.constant(bias, self.tensors[bias].numpy())
            return graph.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=self.eps)
        squares = graph.node("Pow", x, graph.constant("two", 2))
        mean = graph.node("ReduceMean", squares, axes=[-1], keepdims=1)
        rms = graph.node("Sqrt", self._add(mean, graph.constant("eps", self.eps)))
        return graph.node("Mul", graph.node("Div", x, rms), gain)

    def _linear(self, x: str, *names: str, **order: Any) -> str:
        """The layer's matrices `names`, which read the same, as one."""
        sources = tuple(f"{self.place}{name}.weight" for name in names)
        name = self.place + "+".join(name.partition(".")[2] for name in names)
        if len(names) == 1:
            name = self.place + names[0]
        return self.graph.linear(x, Matrix(name=name, sources=sources, **order))

    def _add(self, left: str, right: str) -> str:
        return self.graph.node("Add", left, right)

    def _positions(self) -> None:
        """Positions [B, T] of the new tokens, as many as real ones came before; their rotation."""
        graph = self.graph
        zero = graph.constant("zero", 0, np.int64)
        one = graph.constant("next", 1, np.int64)
        count = graph.node("CumSum", "attention_mask", graph.constant("axis", 1, np.int64))
        all_S = graph.node("Max", graph.node("Sub", count, one), zero)
        total = graph.node("Gather", graph.node("Shape", "attention_mask"), one, axis=0)
        new = graph.node("Gather", graph.node("Shape", "input_ids"), one, axis=0)
        self.new_T = graph.node("Range", graph.node("Sub", total, new), total, one)
        self.all_S = graph.node("Range", zero, total, one)
        position = graph.node("Gather", all_S, self.new_T, axis=1)
        real = graph.node("Cast", "attention_mask", to=BOOL)
        self.real = graph.node("Unsqueeze", real, graph.whole(1, 2))  # [B, 1, 1, S]
        frequency, scale = _rotary(graph.child)
        self.half = frequency.size
        position = graph.node("Cast", position, to=FLOAT)
        position = graph.node("Unsqueeze", position, graph.whole(1, 3))  # [B, 1, T, 1]
        angle = graph.node("Mul", position, graph.constant("frequencies", frequency))
        factor = graph.constant("rotary scale", scale)
        self.cos = graph.node("Mul", graph.node("Cos", angle), factor)
        self.sin = graph.node("Mul", graph.node("Sin", angle), factor)

    def _mask(self, layer: int) -> str:
        """What is added to scores: 0 where a key may be read, the lowest number elsewhere."""
        window = _window(self.config, layer)
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int | None) -> str:
        graph = self.graph
        query = graph.node("Unsqueeze", self.new_T, graph.whole(1))
        seen = graph.node("LessOrEqual", self.all_S, query)  # [T, S]
        if window is not None:
            size = graph.constant(f"window.{window}", window, np.int64)
            near = graph.node("Less", graph.node("Sub", query, self.all_S), size)
            seen = graph.node("And", seen, near)
        seen = graph.node("And", seen, self.real)
        lowest = graph.constant("lowest", np.finfo(np.float32).min)
        return graph.node("Where", seen, graph.constant("open", 0), lowest)


def _config(child: "Child") -> Any:
    config = model_config(child.config)
    kind = config.rope_parameters["rope_type"]
    if kind in _BY_LENGTH:
        raise UserError(f"[export] formats: no onnx files for rotary scaling {kind!r}")
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(
            f"[export] formats: no onnx files for activation {config.hidden_act!r}; it has {known}"
        )
    return config


def _rotary(child: "Child") -> tuple[Any, float]:
    """Frequencies [R / 2] of the rotation and what cosine and sine are multiplied by."""
    rotary = hollow_network(child.config).base_model.rotary_emb
    return rotary.inv_freq.numpy(), float(rotary.attention_scaling)


def _window(config: Any, layer: int) -> int | None:
    """How many positions back a layer reads, itself included; None: all."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None or kinds[layer] == "sliding_attention":
        return getattr(config, "sliding_window", None)
    return None
