"""Every id in the file is renumbered; what must not be lost is not lost."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.document import vocab_of
from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.stages.compact.derive import read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, chat_words, mandatory_tokens
from pocketlm.stages.compact.rebuild import alphabet, rebuild

steady = settings(derandomize=True, deadline=None, max_examples=12)
SEEDS = st.integers(0, 2**32 - 1)
FAMILIES = ("byte_bpe", "sentencepiece_bpe", "unigram", "wordpiece")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% endfor %}Answer: "
)


@pytest.fixture(scope="module")
def unigram(corpus, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """SentencePiece Unigram with byte fallback, 600 pieces, one of them user-defined."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(corpus.all_texts).splitlines()),
        model_writer=model,
        model_type="unigram",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        user_defined_symbols=["<eoh>"],
        minloglevel=3,
    )
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def wordpiece(corpus, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """BERT's specials, every character in both forms, and the beginnings and ends of words."""
    words = sorted({word for text in corpus.all_texts for word in text.lower().split()})
    characters = sorted(set("".join(words)))
    pieces = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *characters]
    pieces += [f"##{character}" for character in characters]
    pieces += [word[:4] for word in words] + [f"##{word[-3:]}" for word in words if len(word) > 3]
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(pieces)), encoding="utf-8")
    return load_tokenizer(path)


@pytest.fixture(params=FAMILIES)
def parent(request: pytest.FixtureRequest) -> Tokenizer:
    """One of each family."""
    chosen: Tokenizer = request.getfixturevalue(request.param)
    return chosen


def some_of(tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """What no child can do without, and of the rest as many as it happens; closed or not."""
    rng = np.random.default_rng(seed)
    added = tokenizer.backend.get_added_tokens_decoder()
    needed = [*alphabet(tokenizer), *added, *tokenizer.special_ids]
    keep_P = rng.random(tokenizer.num_tokens) < rng.random()
    keep_P[needed] = True
    return np.flatnonzero(keep_P)


def test_pieces_are_what_they_were(parent: Tokenizer) -> None:
    before = {i: piece for piece, i in parent.backend.get_vocab().items()}

    @given(seed=SEEDS)
    @steady
    def same(seed: int) -> None:
        kept_V = some_of(parent, seed)
        child = rebuild(parent, kept_V)
        pieces = child.backend.get_vocab()
        assert pieces == {before[old]: new for new, old in enumerate(kept_V.tolist())}
        assert child.num_tokens == kept_V.size
        assert (child.family, child.roles) == (parent.family, parent.roles)
        assert len(child.special_ids) == len(parent.special_ids)
        assert kept_V[sorted(child.special_ids)].tolist() == sorted(parent.special_ids)

    same()


def test_scores_and_merges_keep_their_order(parent: Tokenizer) -> None:
    model = parent.document["model"]

    @given(seed=SEEDS)
    @steady
    def same(seed: int) -> None:
        kept_V = some_of(parent, seed)
        cut = rebuild(parent, kept_V).document["model"]
        pieces = vocab_of(cut).keys()
        if model["type"] == "Unigram":
            assert cut["vocab"] == [model["vocab"][old] for old in kept_V]
            assert kept_V[cut["unk_id"]] == model["unk_id"]
        elif model["type"] == "BPE":
            joined = [[a, b] for a, b in model["merges"] if {a, b, a + b} <= pieces]
            assert cut["merges"] == joined
        same_keys = model.keys() - {"vocab", "merges", "unk_id"}
        assert {key: cut[key] for key in same_keys} == {key: model[key] for key in same_keys}

    same()


def test_everything_kept_is_the_same_tokenizer(parent: Tokenizer) -> None:
    again = rebuild(parent, np.arange(parent.num_tokens))
    assert again.backend.to_str() == parent.backend.to_str()
    assert (again.roles, again.frame([7])) == (parent.roles, parent.frame([7]))
    assert (again.sentencepiece is None) == (parent.sentencepiece is None)


def test_twice_is_the_same_as_once(parent: Tokenizer) -> None:
    @given(first=SEEDS, second=SEEDS)
    @steady
    def same(first: int, second: int) -> None:
        kept_V = some_of(parent, first)
        child = rebuild(parent, kept_V)
        fewer_V = some_of(child, second)
        twice, once = rebuild(child, fewer_V), rebuild(parent, kept_V[fewer_V])
        assert twice.backend.to_str() == once.backend.to_str()
        assert (twice.roles, twice.frame([3])) == (once.roles, once.frame([3]))
        if twice.sentencepiece is not None:
            assert twice.sentencepiece == once.sentencepiece

    same()


@pytest.mark.parametrize("family", ["sentencepiece_bpe", "unigram"])
def test_the_sentencepiece_form_has_the_same_ids_or_is_left_out(
    request: pytest.FixtureRequest, corpus, family: str
) -> None:
    import sentencepiece

    parent = request.getfixturevalue(family)
    characters = [i for piece, i in parent.backend.get_vocab().items() if len(piece) == 1]
    texts = [*corpus.all_texts[:12], "", " a", "龘 the  ", "<eoh>x<0x0A>", "\t\n"]

    @given(seed=SEEDS, whole=st.booleans())
    @steady
    def same(seed: int, whole: bool) -> None:
        kept_V = np.union1d(some_of(parent, seed), characters if whole else [])
        child = rebuild(parent, kept_V.astype(np.int64))
        assert not (whole and child.sentencepiece is None)
        if child.sentencepiece is not None:
            twin = sentencepiece.SentencePieceProcessor(model_proto=child.sentencepiece)
            assert twin.vocab_size() == child.num_tokens
            assert twin.encode(texts) == child.encode_batch(texts)

    same()


def test_characters_join_only_where_they_are_pieces(sentencepiece_bpe: Tokenizer) -> None:
    """SentencePiece would read a piece whose characters were dropped, tokenizer.json would not."""
    pieces = sentencepiece_bpe.backend.get_vocab()
    kept_V = np.array([i for piece, i in pieces.items() if piece != "t"])
    child = rebuild(sentencepiece_bpe, np.sort(kept_V))
    assert sentencepiece_bpe.sentencepiece is not None
    assert child.sentencepiece is None
    assert child.decode(child.encode("the")) == "the"


def test_holes_in_ids_are_closed() -> None:
    document = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 4, "ab": 9}, "merges": [["a", "b"]]},
    }
    parent = tokenizer_from_document(document, roles={})
    kept_V = read_vocabulary(parent).ids
    child = rebuild(parent, kept_V)
    assert kept_V.tolist() == [0, 4, 9]
    assert child.backend.get_vocab() == {"a": 0, "b": 1, "ab": 2}
    assert kept_V[child.encode("aab")].tolist() == parent.encode("aab")


def with_specials(tokenizer: Tokenizer, post_processor: dict) -> Tokenizer:
    """`tokenizer` with three more specials at the end and another post-processor."""
    document = json.loads(tokenizer.backend.to_str())
    first = tokenizer.num_tokens
    document["added_tokens"] += [
        {
            "id": first + n,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": n < 2,
        }
        for n, content in enumerate(["<cls>", "<sep>", "<plain>"])
    ]
    document["post_processor"] = post_processor
    roles = {"bos_token": "<cls>", "eos_token": "<sep>"}
    return tokenizer_from_document(document, roles=roles, chat_template=TEMPLATE)


def template(first: int) -> dict:
    return {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<cls>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<cls>": {"id": "<cls>", "ids": [first], "tokens": ["<cls>"]}},
    }


def ends(kind: str, first: int) -> dict:
    extra = {"trim_offsets": True, "add_prefix_space": False} if kind[0] == "R" else {}
    return {"type": kind, "sep": ["<sep>", first + 1], "cls": ["<cls>", first], **extra}


@pytest.mark.parametrize("kind", ["template", "BertProcessing", "RobertaProcessing", "sequence"])
def test_ids_of_specials_move_everywhere(parent: Tokenizer, kind: str) -> None:
    first = parent.num_tokens
    processor = {
        "template": template(first),
        "sequence": {"type": "Sequence", "processors": [template(first)]},
    }.get(kind) or ends(kind, first)
    parent = with_specials(parent, processor)
    vocabulary = read_vocabulary(parent)
    kept = sorted(mandatory_tokens(parent, vocabulary, keep=Keep()))
    child = rebuild(parent, np.array(kept))
    text = "<plain> text"
    assert child.num_tokens == len(kept)
    assert child.roles == parent.roles
    assert child.adds_bos
    assert child.chat_template == parent.chat_template
    assert child.backend.token_to_id("<plain>") in child.encode(text)
    before, after = (t.backend.encode("").ids for t in (parent, child))
    assert [kept[i] for i in after] == before


def test_merges_stay_in_order_and_only_complete_ones(tokenizer: Tokenizer) -> None:
    keep = Keep(texts=("the",))
    kept_V = np.array(sorted(mandatory_tokens(tokenizer, read_vocabulary(tokenizer), keep=keep)))
    child = json.loads(rebuild(tokenizer, kept_V).backend.to_str())["model"]
    parent = json.loads(tokenizer.backend.to_str())["model"]
    vocab = child["vocab"]
    assert child["merges"] == [[a, b] for a, b in parent["merges"] if {a, b, a + b} <= vocab.keys()]
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_alphabet_is_the_256_bytes(tokenizer: Tokenizer) -> None:
    assert len(set(alphabet(tokenizer))) == 256


def test_chat_words_are_what_the_template_writes() -> None:
    words = chat_words(TEMPLATE, ["<|im_start|>"])
    assert {"Answer: ", "user", "assistant", "system", "\n"} <= set(words)
    assert not any("<|im_start|>" in word for word in words)
    assert chat_words(None, []) == []


def test_reasons_name_the_first_that_applies(byte_bpe: Tokenizer) -> None:
    parent = with_specials(byte_bpe, template(byte_bpe.num_tokens))
    reasons = mandatory_tokens(parent, read_vocabulary(parent), keep=Keep(texts=(" shall",)))
    assert reasons[parent.bos_id] == "special"
    assert reasons[parent.backend.token_to_id("<plain>")] == "added"
    assert reasons[parent.encode("\n")[0]] == "byte"
    assert set(reasons.values()) == {"special", "added", "byte", "chat", "keep", "ancestor"}
