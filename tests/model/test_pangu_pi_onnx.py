"""PanGu-π as ONNX: what onnxruntime computes is what torch computes, at any batch and length."""

from pathlib import Path

import pytest
import torch

from pocketlm.model.neutral import from_llama
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config, constant

_REASON = "needs the extra: pip install 'pocketlm[onnx]'"
pytest.importorskip("onnx", reason=_REASON)
pytest.importorskip("onnxscript", reason=_REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=_REASON)

SHAPE = Shape(
    family="llama", vocab_size=40, layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48,
    tied=True,
)  # fmt: skip


# torch's exporter and onnxscript use each other's, and Python's, older names.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("num_activations", "shortcut_width"), [(2, 3), (3, 0)])
def test_onnxruntime_gives_the_same_logits(
    tmp_path: Path, num_activations: int, shortcut_width: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    config = base_config(SHAPE, max_positions=64, bos_id=0, eos_id=1)
    child = from_llama(
        constant(config, SHAPE, rng),
        num_activations=num_activations,
        shortcut_width=shortcut_width,
        rng=rng,
    )
    network = child.network()
    network.config.use_cache = False
    with torch.no_grad():
        for parameter in network.parameters():  # no part neutral
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    ids_BT = torch.randint(0, 40, (2, 6), generator=rng)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=60)
    program = torch.onnx.export(
        network,
        (),
        kwargs={"input_ids": ids_BT},
        dynamic_shapes={"input_ids": {0: batch, 1: length}},
        dynamo=True,
        verbose=False,
    )
    program.save(tmp_path / "child.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "child.onnx")
    for size in ((2, 6), (1, 12), (3, 4)):
        ids_BT = torch.randint(0, 40, size, generator=rng)
        (logits,) = session.run(None, {session.get_inputs()[0].name: ids_BT.numpy()})
        with torch.no_grad():
            expected = network(ids_BT).logits
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
        assert expected.abs().max() > 1
