"""Read trees of tokens through a network, and take log probabilities where they are wanted.

A tree is one row with a mask of its own, [B, 1, T, K] booleans, and its own positions, both of
which the decoders of transformers take. Padding stands right of all real tokens and no mask shows
it to them. Networks that read such rows wrongly (positions by place, recurrent states) are found by
a trial, and read each choice from scratch, as plain causal rows; so are rows longer than a sliding
window, which counts places and not positions.

Shapes: B rows, T tokens read, G tokens kept, K = G + T, M places wanted, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketlm.errors import StageError
from pocketlm.stages.evaluate.bits import BATCH_TOKENS, BATCH_TOKENS_CPU, LOGITS_AT_ONCE
from pocketlm.stages.evaluate.trees import Batch, tree_of

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_TRIAL = ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8])  # two rows that begin alike


@dataclass
class Reader:
    """A network and how it is read. `tokens_read` counts real tokens, padding left out."""

    network: "PreTrainedModel"
    autocast: bool = False
    batch_tokens: int = 0
    """Padded input of a batch; 0: by the device."""
    longest_tree: int = 0
    """Tokens of a row that may branch; 0 where the network reads no branches."""
    tokens_read: int = 0
    _kept: tuple[list[int], Any] = field(default=([], None), repr=False)

    def __post_init__(self) -> None:
        on_cpu = self.network.device.type == "cpu"
        self.batch_tokens = self.batch_tokens or (BATCH_TOKENS_CPU if on_cpu else BATCH_TOKENS)

    def hidden(self, batch: Batch, cache: "DynamicCache | None" = None) -> "torch.Tensor":
        """Last hidden states [B, T, D] of the batch's trees, what they share left out.

        An empty `cache` is filled with the keys and values of a batch that shares nothing.
        """
        import torch

        ids_BT, positions_BT, marks_BT = padded(batch)
        device = self.network.device
        inputs: dict[str, Any] = {"input_ids": ids_BT.to(device), "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = cache
        if not batch.is_plain:
            inputs["position_ids"] = positions_BT.to(device)
            inputs["attention_mask"] = _visible(marks_BT, batch.shared).to(device)
        if batch.shared:
            inputs["past_key_values"] = self._expanded(batch)
        with torch.inference_mode(), self._cast():
            out: torch.Tensor = self.network.base_model(**inputs).last_hidden_state
        self.tokens_read += sum(tree.size - batch.shared for tree in batch.trees)
        return out

    def step(
        self, token_B: Sequence[int], position_B: "torch.Tensor", visible_BK: "torch.Tensor",
        cache: "DynamicCache",
    ) -> "torch.Tensor":  # fmt: skip
        """Read one more token of every row; its last hidden states [B, D].

        `visible_BK` says which columns of the cache, the new one last, each row sees.
        """
        import torch

        device = self.network.device
        with torch.inference_mode(), self._cast():
            out = self.network.base_model(
                input_ids=torch.tensor(token_B, device=device)[:, None],
                position_ids=position_B.to(device)[:, None],
                attention_mask=visible_BK.to(device)[:, None, None],
                past_key_values=cache,
                use_cache=True,
            )
        self.tokens_read += len(token_B)
        hidden_BD: torch.Tensor = out.last_hidden_state[:, -1]
        return hidden_BD

    def likeliest(self, hidden_MD: "torch.Tensor") -> list[int]:
        """The likeliest token behind each place."""
        return [i for part in self._logits(hidden_MD) for i in part.argmax(-1).tolist()]

    def log_probs(self, hidden_MD: "torch.Tensor", targets_M: Sequence[int]) -> "torch.Tensor":
        """ln p of one token behind each place, float64 [M]; the head runs in slices."""
        import torch

        targets = torch.tensor(targets_M, device=hidden_MD.device)
        parts = [
            -torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double()
            for logits, wanted in zip(
                self._logits(hidden_MD), torch.split(targets, self._rows()), strict=True
            )
        ]
        return torch.cat(parts).cpu()

    def log_masses(
        self, hidden_MD: "torch.Tensor", ids_M: Sequence[Sequence[int]]
    ) -> "torch.Tensor":
        """ln of the summed p of several tokens behind each place, float64 [M]."""
        import torch

        masses, logits_V = [], (row for part in self._logits(hidden_MD) for row in part)
        for row_V, ids in zip(logits_V, ids_M, strict=True):
            wanted = row_V[torch.tensor(ids, device=row_V.device)]
            masses.append((wanted.logsumexp(0) - row_V.logsumexp(0)).double())
        return torch.stack(masses).cpu()

    def _logits(self, hidden_MD: "torch.Tensor") -> Any:
        import torch

        head = self.network.get_output_embeddings()
        for slice_MD in torch.split(hidden_MD, self._rows()):
            with torch.inference_mode(), self._cast():
                logits_MV = head(slice_MD)
            yield logits_MV.float()

    def _rows(self) -> int:
        num_logits: int = self.network.get_output_embeddings().weight.shape[0]
        return max(1, LOGITS_AT_ONCE // num_logits)

    def _cast(self) -> Any:
        import torch

        kind = self.network.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.autocast)

    def _expanded(self, batch: Batch) -> Any:
        """Keys and values of what the batch shares, once a tree; kept until another is asked."""
        import torch
        from transformers import DynamicCache

        ids = batch.trees[0].trunk[: batch.shared]
        if self._kept[0] != ids:
            ids_1G = torch.tensor([ids], device=self.network.device)
            with torch.inference_mode(), self._cast():
                cache = DynamicCache()
                self.network.base_model(input_ids=ids_1G, past_key_values=cache, use_cache=True)
            self._kept = ids, [(layer.keys, layer.values) for layer in cache.layers]
            self.tokens_read += len(ids)
        rows = len(batch.trees)
        return DynamicCache(
            (key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
            for key, value in self._kept[1]
        )


def open_reader(
    network: "PreTrainedModel", *, autocast: bool, batch_tokens: int | None, share: bool
) -> Reader:
    """A reader whose `longest_tree` says what this network can do.

    Raises `StageError` for a network whose logits are not its head's, which it would score wrongly.
    """
    import torch

    trial = Reader(network)
    rows = [[i % network.config.vocab_size for i in row] for row in _TRIAL]
    with torch.inference_mode():
        ids_1T = torch.tensor([rows[1]], device=network.device)
        whole_TV = network(input_ids=ids_1T, use_cache=False).logits[0]
        alone_TD = network.base_model(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
        head_TV = network.get_output_embeddings()(alone_TD)
    if not _near(network, head_TV, whole_TV):
        raise StageError(
            f"evaluate: {type(network).__name__} caps or scales its head's "
            "logits; only models whose logits are the head's own can be scored"
        )
    longest = _window(network) if share and _reads_trees(trial, rows, alone_TD) else 0
    return Reader(network, autocast, batch_tokens or 0, longest)


def max_context(network: "PreTrainedModel") -> int:
    """Tokens the model was made to read; 2,048 where its config does not say."""
    config = network.config
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return 2048


def _reads_trees(trial: Reader, rows: list[list[int]], alone_TD: "torch.Tensor") -> bool:
    """Whether the second row comes out the same in a tree, behind a kept token, as alone."""
    tree = tree_of(rows, owner=0, first=2)
    batch = Batch(trees=(tree, tree), shared=1, width=tree.size - 1)
    try:
        hidden_TD = trial.hidden(batch)[1]
    except Exception:  # each network has its own way of not taking a mask, positions or a cache
        return False
    nodes = [tree.node(1, place) - 1 for place in range(1, len(rows[1]))]
    return _near(trial.network, hidden_TD[nodes], alone_TD[1:])


def _near(network: "PreTrainedModel", found: "torch.Tensor", expected: "torch.Tensor") -> bool:
    """Equal up to the rounding of the network's own numbers. NaN equals NaN: scoring says where."""
    import torch

    within = 1e-3 if network.dtype == torch.float32 else 0.1
    scale = within * float(expected.nan_to_num().abs().max())
    return torch.allclose(found.float(), expected.float(), rtol=0, atol=scale, equal_nan=True)


def _window(network: "PreTrainedModel") -> int:
    """Places over which every layer sees all that was before."""
    config = network.config.get_text_config()
    windows = (getattr(config, name, None) for name in _WINDOWS)
    return min((int(window) for window in windows if window), default=2**31)


def padded(batch: Batch) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Ids, positions and branch numbers [B, T]; padding is a branch of its own, -1."""
    import torch

    shape = (len(batch.trees), batch.width)
    ids_BT, positions_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape).long()
    marks_BT = torch.full(shape, -1)
    for row, tree in enumerate(batch.trees):
        for into, values in zip((ids_BT, positions_BT, marks_BT), tree.flat(), strict=True):
            own = torch.tensor(values[batch.shared :], dtype=torch.long)
            into[row, : len(own)] = own
    return ids_BT, positions_BT, marks_BT


def _visible(marks_BT: "torch.Tensor", shared: int) -> "torch.Tensor":
    """[B, 1, T, K]: what is kept, and of what is before it the trunk and the token's own branch.

    Each token sees itself, padding too, so that no row of attention is empty.
    """
    import torch

    width = marks_BT.shape[1]
    before_TT = torch.ones(width, width, dtype=torch.bool).tril()
    own_BTT = (marks_BT[:, :, None] == marks_BT[:, None]) | (marks_BT == 0)[:, None]
    kept = torch.ones(len(marks_BT), width, shared, dtype=torch.bool)
    return torch.cat((kept, own_BTT & before_TT), dim=2)[:, None]
