"""A tokenizer: text to ids and back, one frame around a document, one way to disk.

Four families: byte-level BPE, SentencePiece-like BPE, Unigram, WordPiece.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from pocketlm.corpus.document import ACCEPTED, Document, Family, family_of, model_type
from pocketlm.corpus.lossless import reason_of_loss, refuse_damage
from pocketlm.corpus.wordpiece import bert_settings, vocab_txt
from pocketlm.errors import ParentError

END_OF_TEXT = "<|endoftext|>"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Only for a tokenizer.json that comes without tokenizer_config.json; the first one found counts.
_USUAL_NAMES = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", END_OF_TEXT, "[CLS]"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", END_OF_TEXT, "[SEP]"),
    "pad_token": ("<pad>", "<|pad|>", "[PAD]"),
    "unk_token": (),
}
_BERT_ROLES = {
    "[CLS]": "cls_token",
    "[SEP]": "sep_token",
    "[MASK]": "mask_token",
    "<mask>": "mask_token",
}
# What another tokenizer may have left in a folder; each counts for some loader.
_FORMS = (
    *("tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt"),
    *("added_tokens.json", "chat_template.jinja"),
)
_NO_LIMIT = int(1e30)  # how transformers writes "no maximal length"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A `tokenizers` backend and the ids that play a role. Specials in text are plain text."""

    backend: tokenizers.Tokenizer
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    chat_template: str | None = None
    sentencepiece: bytes | None = field(default=None, repr=False)
    """Serialized SentencePiece ModelProto with the same pieces by id, if the source had one."""

    @cached_property
    def document(self) -> Document:
        """The backend as parsed `tokenizer.json`. Read it only: it is kept."""
        parsed: Document = json.loads(self.backend.to_str())
        return parsed

    @cached_property
    def family(self) -> Family:
        """`byte-bpe`, `sentencepiece-bpe`, `unigram` or `wordpiece`."""
        return family_of(self.document)

    @cached_property
    def lossless(self) -> str | None:
        """None if decode(encode(x)) == x for any text; else one line why not."""
        return reason_of_loss(self)

    @cached_property
    def num_tokens(self) -> int:
        """Highest id + 1: rows that an embedding table needs."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself puts bos before a text (its post-processor says so)."""
        return self.bos_id is not None and self.backend.encode("").ids[:1] == [self.bos_id]

    @property
    def roles(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, `pad_token`, `unk_token` -> the token, where there is one."""
        ids = (self.bos_id, self.eos_id, self.pad_id, self.unk_id)
        # Not id_to_token: of an added token it gives the normalised form, which has no id.
        pieces = {i: piece for piece, i in self.backend.get_vocab(with_added_tokens=True).items()}
        named = zip(ROLES, ids, strict=True)
        return {role: pieces[i] for role, i in named if i is not None}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for no text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @property
    def prefix_id(self) -> int | None:
        """What stands before a document: bos if the tokenizer adds it, else eos, if any."""
        return self.bos_id if self.adds_bos else self.eos_id

    @property
    def suffix_id(self) -> int | None:
        """What stands after a document: eos, unless the next document's prefix is the same."""
        return self.eos_id if self.eos_id != self.prefix_id else None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone: nothing added; `</s>` in a text is four characters."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode(self, text: str) -> list[int]:
        """Ids of one text; see `encode_batch`."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens give no text."""
        # The library knows specials by their text and misses those that the normaliser changes.
        text_ids = [i for i in ids if i not in self.special_ids]
        return str(self.backend.decode(text_ids, skip_special_tokens=False))

    def frame(self, ids: Sequence[int]) -> list[int]:
        """One document as models see it: prefix + ids + suffix, where they exist."""
        ends = ([i] if i is not None else [] for i in (self.prefix_id, self.suffix_id))
        prefix, suffix = ends
        return [*prefix, *ids, *suffix]

    def save(self, folder: Path) -> None:
        """Write the files that transformers' `AutoTokenizer` reads, with the same ids.

        `tokenizer.json` and its settings; `tokenizer.model` where there is a SentencePiece form,
        `vocab.txt` for WordPiece that cuts text as BERT's does. Other forms that lie there, of
        another vocabulary, are removed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FORMS:
            (folder / name).unlink(missing_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        if self.sentencepiece is not None:
            (folder / "tokenizer.model").write_bytes(self.sentencepiece)
        cutting = bert_settings(self.document) if self.family == "wordpiece" else None
        lines = None if cutting is None else vocab_txt(self.backend.get_vocab())
        if lines is not None:
            (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
        specials = {**self._named_specials(), **self.roles}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": _NO_LIMIT,
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.adds_bos,
            **(cutting or {}),
            **specials,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "special_tokens_map.json", specials)

    def _named_specials(self) -> dict[str, str]:
        """BERT's roles, for the special tokens that have their names."""
        added = self.backend.get_added_tokens_decoder().values()
        there = {token.content for token in added if token.special}
        return {role: name for name, role in _BERT_ROLES.items() if name in there}


def tokenizer_from_document(
    document: Mapping[str, Any],
    *,
    roles: Mapping[str, str],
    chat_template: str | None = None,
    sentencepiece: bytes | None = None,
) -> Tokenizer:
    """A tokenizer from parsed `tokenizer.json`; `roles` maps `bos_token`, ... to the token.

    Truncation, padding and dropout are switched off. Without roles the usual names are looked
    for. Raises `ParentError` (without the file's name) for other families, damage and shifted ids.
    """
    kind = model_type(document.get("model") or {})
    family_of(document)
    model = {**document["model"], "type": kind}
    if kind == "BPE":
        model["dropout"] = None
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise ParentError(f"BPE with word-part marks; accepted: {ACCEPTED}")
    plain = {**document, "model": model, "truncation": None, "padding": None}
    refuse_damage(plain, roles)
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception
        raise ParentError(f"not a tokenizer.json that can be read: {error}") from None
    backend.encode_special_tokens = True
    for added in document.get("added_tokens") or ():
        if backend.token_to_id(added["content"]) != added["id"]:
            raise ParentError(f"added token {added['content']!r} does not sit at id {added['id']}")
    unk = model.get("unk_token") if kind != "Unigram" else model["vocab"][model["unk_id"]][0]
    ids = _role_ids(backend, {"unk_token": unk, **roles} if unk else roles)
    return Tokenizer(
        backend=backend, chat_template=chat_template, sentencepiece=sentencepiece, **ids
    )


def train_tokenizer(texts: Iterator[str], *, vocab_size: int) -> Tokenizer:
    """Byte-level BPE on `texts` with at most `vocab_size` tokens (GPT-2, Radford et al. 2019,
    section 2.2): its pre-tokenizer, 256 bytes, and one special that begins every document."""
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))],
    )
    roles = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return tokenizer_from_document(json.loads(backend.to_str()), roles=roles)


def _role_ids(backend: Any, roles: Mapping[str, str]) -> dict[str, int | None]:
    if not roles.keys() - {"unk_token"}:
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        usual = {
            role: next((n for n in names if n in added), None)
            for role, names in _USUAL_NAMES.items()
        }
        roles = {**{role: name for role, name in usual.items() if name}, **roles}
    return {
        role.replace("token", "id"): backend.token_to_id(roles[role]) if role in roles else None
        for role in ROLES
    }


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
