"""The GGUF file: numbers, metadata, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.errors import StageError, UserError
from pocketlm.stages.export.gguf import deinterleave, interleave, stored_tensors, write_gguf
from pocketlm.stages.export.llama_cpp import Job, ask_llama_cpp
from pocketlm.stages.export.llama_cpp_speed import measure_file
from pocketlm.stages.export.verify import check_tensors, read_back

gguf = pytest.importorskip("gguf")


def _fields(path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@given(heads=st.integers(1, 5), half=st.integers(1, 6), width=st.integers(1, 4))
def test_interleaving_is_undone_and_pairs_the_halves(heads, half, width) -> None:
    rows = np.arange(heads * 2 * half * width, dtype=np.float32).reshape(-1, width)
    mixed = interleave(rows, heads)
    np.testing.assert_array_equal(deinterleave(mixed, heads), rows)
    np.testing.assert_array_equal(mixed[0], rows[0])
    np.testing.assert_array_equal(mixed[1], rows[half])


def test_metadata_describes_the_child(files, child, tokenizer) -> None:
    fields, shape = _fields(files.path("gguf-f16")), child.shape
    assert fields["general.architecture"] == "llama"
    assert fields["general.name"] == "pico"
    assert fields["pocketlm.train_key"] == "0123"
    assert fields["llama.block_count"] == shape.layers
    assert fields["llama.attention.head_count_kv"] == shape.kv_heads
    assert fields["llama.attention.key_length"] == shape.head_dim
    assert fields["llama.rope.freq_base"] == 10000
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_id
    assert fields["tokenizer.ggml.add_bos_token"] == tokenizer.adds_bos


def test_a_chat_template_travels_along(child, tokenizer, tmp_path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    path = tmp_path / "chat.gguf"
    write_gguf(child, replace(tokenizer, chat_template=template), path, weights="F16", lineage={})
    assert _fields(path)["tokenizer.chat_template"] == template


def test_a_damaged_file_is_said_in_one_line(files, tmp_path) -> None:
    pytest.importorskip("xllamacpp")
    path = tmp_path / "cut.gguf"
    path.write_bytes(files.path("gguf-f16").read_bytes()[:20_000])
    with pytest.raises(StageError, match=r"llama.cpp does not run cut.gguf") as error:
        ask_llama_cpp(Job(model=str(path), prompts=[[1]], new_tokens=2, texts=[]))
    assert "\n" not in str(error.value)


def test_a_tied_output_is_stored_once(files, child) -> None:
    names = [tensor.name for tensor in gguf.GGUFReader(files.path("gguf-f16")).tensors]
    assert "output.weight" not in names
    assert len(names) == len(set(names)) == len(child.tensors)


def test_an_untied_output_is_stored(child, tokenizer, tmp_path) -> None:
    config = {**child.config, "tie_word_embeddings": False}
    head = child.tensors["model.embed_tokens.weight"].flip(0).contiguous()
    untied = replace(child, config=config, tensors={**child.tensors, "lm_head.weight": head})
    path = tmp_path / "untied.gguf"
    write_gguf(untied, tokenizer, path, weights="F16", lineage={})
    assert "output.weight" in [tensor.name for tensor in gguf.GGUFReader(path).tensors]
    assert read_back(path, untied, "F16").tensors.keys() == untied.tensors.keys()


@pytest.mark.parametrize("weights", ["F16", "Q8_0"])
def test_numbers_come_back_up_to_their_rounding(files, child, weights) -> None:
    read = read_back(files.path(f"gguf-{weights.lower()}"), child, weights)
    for name, tensor in child.tensors.items():
        back = read.tensors[name]
        if tensor.ndim == 1:
            assert back.equal(tensor)
        elif weights == "F16":
            assert back.equal(tensor.half().float())
        else:
            assert (back - tensor).abs().max() <= tensor.abs().max() / 127


def test_a_changed_number_is_found(files, child) -> None:
    path = files.path("gguf-q8_0")
    name = "model.layers.1.self_attn.k_proj.weight"
    changed = child.tensors[name].clone()
    changed[3, 5] += changed.abs().max() / 30
    other = replace(child, tensors={**child.tensors, name: changed})
    with pytest.raises(StageError, match="attn_k"):
        read_back(path, other, "Q8_0")


def test_rows_that_are_no_multiple_of_32_stay_f16(tokenizer, tmp_path, narrow_child) -> None:
    path = tmp_path / "narrow.gguf"
    write_gguf(narrow_child, tokenizer, path, weights="Q8_0", lineage={})
    kinds = {t.name: t.weights for t in stored_tensors(narrow_child, "Q8_0")}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    _, check = check_tensors(path, narrow_child, "Q8_0")
    assert "2 matrices kept F16" in check.note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "need silu"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary scaling 'dynamic'"),
        ({"model_type": "gpt_neox"}, "family 'gpt_neox'; it has llama"),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(
    child, tokenizer, tmp_path, changes, message
) -> None:
    other = replace(child, config={**child.config, **changes})
    with pytest.raises(UserError, match=message):
        write_gguf(other, tokenizer, tmp_path / "x.gguf", weights="F16", lineage={})


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rotary_scaling_reaches_llama_cpp(child, tokenizer, tmp_path, scaling) -> None:
    pytest.importorskip("xllamacpp")
    config = {k: v for k, v in child.config.items() if k != "rope_parameters"}
    config |= {"rope_scaling": scaling, "rope_theta": 500.0}
    scaled, path = replace(child, config=config), tmp_path / "scaled.gguf"
    write_gguf(scaled, tokenizer, path, weights="F16", lineage={})
    prompt = list(range(5, 100))
    job = Job(model=str(path), prompts=[prompt], new_tokens=8, texts=[])
    tokens = ask_llama_cpp(job).continuations[0]
    assert tokens == _greedy(scaled, prompt, len(tokens))
    assert tokens != _greedy(child, prompt, len(tokens))


def _greedy(child, prompt, new_tokens) -> list[int]:
    from pocketlm.model.timing import greedy_tokens

    return greedy_tokens(child.network(), prompt, new_tokens=new_tokens)


def test_a_file_is_timed_in_a_process_of_its_own(files) -> None:
    pytest.importorskip("xllamacpp")
    path = files.path("gguf-q8_0")
    speed = measure_file(path, [1, 2, 3], new_tokens=4, rounds=1)
    assert speed.peak_bytes > path.stat().st_size
    assert min(speed.load_s, speed.prefill_tokens_per_s, speed.decode_tokens_per_s) > 0
