"""Our models inside lm-evaluation-harness: a network with its tokenizer as one of its `LM`s.

What lm-eval asks goes through the same reading as our own benchmarks, contexts shared, with the
seam `lm-eval`; so a task of lm-eval gives the numbers its own HFLM gives, and our tasks
(lm_eval_tasks.py) give ours. Importing this needs lm-eval; nothing else here does.

Differences from HFLM, on purpose: a text is opened by the tokenizer's prefix token, once; in
`loglikelihood_rolling` HFLM puts a tokenizer's own bos behind another one and scores it.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pocketlm.errors import RecipeError, StageError, UserError
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.evaluate.choice import ITEMS_AT_ONCE, Logs, nats_of, read_seams, record_of
from pocketlm.stages.evaluate.items import Item, Question
from pocketlm.stages.evaluate.reader import Reader, open_reader
from pocketlm.stages.evaluate.seam import Seam, lm_eval
from pocketlm.stages.evaluate.writing import Ends, Pen, text_of, write_seams

try:
    from lm_eval.api.model import LM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise UserError("the harness needs lm-eval: pip install 'pocketlm[harness]'") from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer

CHOICES_AT_ONCE = 32
"""Continuations of one context that are read as one tree."""
NEW_TOKENS = 256
"""Written where a task does not say: HFLM's number."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")


class PocketLM(LM):
    """A network and our tokenizer for `lm_eval.simple_evaluate(model=...)`.

    `context_tokens` is what is read at most, prefix token included (HFLM's `max_length`);
    `batch_tokens` the padded input of a batch, None: by the device.
    """

    def __init__(
        self,
        network: "PreTrainedModel",
        tokenizer: "Tokenizer",
        *,
        context_tokens: int,
        autocast: bool = False,
        batch_tokens: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Raises `StageError` for a network whose logits are not its head's."""
        super().__init__()
        self._device = network.device
        self._tokenizer = tokenizer
        self._context = context_tokens
        self._progress = progress
        self._reader: Reader = open_reader(
            network, autocast=autocast, batch_tokens=batch_tokens, share=True
        )

    @property
    def tokens_read(self) -> int:
        """Tokens the network has read so far, padding left out."""
        return self._reader.tokens_read

    def loglikelihood(
        self, requests: "list[Instance]", disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(ln p(continuation | context), whether it is what greedy writing gives) of each request.

        Raises `StageError` for a continuation without a token or longer than the model reads, and
        for nats that are not finite.
        """
        items = list(_items(requests))
        answers: list[tuple[float, bool]] = []
        for start in range(0, len(items), ITEMS_AT_ONCE):
            some = items[start : start + ITEMS_AT_ONCE]
            seams = list(lm_eval(self._tokenizer, some, self._context))
            for item, seam, found in zip(some, seams, self._found(seams), strict=True):
                nats_C = record_of(item, seam, [nats for nats, _ in found]).nats
                greedy_C = [greedy for _, greedy in found]
                answers += [(-nats, greedy) for nats, greedy in zip(nats_C, greedy_C, strict=True)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: "list[Instance]", disable_tqdm: bool = False
    ) -> list[float]:
        """ln p of whole texts, in the windows of lm-eval: as much context as fits, each token once.

        Raises `StageError` for nats that are not finite.
        """
        windows = [(n, seam) for n, r in enumerate(requests) for seam in self._windows(r.args[0])]
        sums = [0.0] * len(requests)
        found = self._found([seam for _, seam in windows])
        for (number, _), [(nats, _)] in zip(windows, found, strict=True):
            sums[number] -= nats
        for number, (request, total) in enumerate(zip(requests, sums, strict=True)):
            if total != total or total == float("-inf"):
                raise StageError(f"evaluate: the network gives text {number} of lm-eval {total}")
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to the first stop. Raises `RecipeError` for a task that samples
        or leaves no room for a context."""
        by_pen: defaultdict[Pen, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_pen[_pen(request.args[1], self._context)].append(number)
        texts = [""] * len(requests)
        for pen, numbers in by_pen.items():
            for start in range(0, len(numbers), ITEMS_AT_ONCE):
                some = numbers[start : start + ITEMS_AT_ONCE]
                contexts = [requests[number].args[0] for number in some]
                for number, text in zip(some, self._written(contexts, pen), strict=True):
                    texts[number] = text
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _found(self, seams: Sequence[Seam]) -> Iterator[list[tuple[float, bool]]]:
        """Nats and greediness of each choice of each seam."""
        logs = Logs(not_greedy=set())
        with self._progress.task("lm-eval", len(seams), "item") as advance:
            read_seams(self._reader, seams, logs, True, advance)
        for place, seam in enumerate(seams):
            nats_C = nats_of(place, seam, logs, num_tokens=self._tokenizer.num_tokens)
            yield [
                (nats, first > 0 and (place, choice) not in (logs.not_greedy or ()))
                for choice, (nats, first) in enumerate(zip(nats_C, seam.first_C, strict=True))
            ]

    def _windows(self, text: str) -> Iterator[Seam]:
        prefix = self._tokenizer.prefix_id
        for pair in get_rolling_token_windows(
            token_list=self._tokenizer.encode(text),
            prefix_token=prefix,
            max_seq_len=self._context,
            context_len=1,
        ):
            before, scored = make_disjoint_window(pair)
            before = [token for token in before if token is not None]  # no token opens a text
            yield _seam([*before, *scored], len(before))

    def _written(self, contexts: Sequence[str], pen: Pen) -> Iterator[str]:
        prefix = [] if self._tokenizer.prefix_id is None else [self._tokenizer.prefix_id]
        room = self._context - pen.new_tokens
        rows = [[*prefix, *ids] for ids in self._tokenizer.encode_batch(contexts)]
        seams = [_seam(row[-room:], len(row[-room:]), bool(prefix) and len(row) <= room)
                 for row in rows]  # fmt: skip
        ends = Ends(self._tokenizer, pen)
        with self._progress.task("lm-eval", len(seams), "text") as advance:
            _, new = write_seams(self._reader, seams, ends, advance)
        for place, seam in enumerate(seams):
            yield text_of(self._tokenizer, seam, new.get(place, []), pen)


def _items(requests: "Sequence[Instance]") -> Iterator[Item]:
    """Neighbours that continue one context for one document, as one item with its choices."""
    groups = groupby(requests, key=lambda request: (request.doc_id, request.args[0]))
    for number, ((_, context), group) in enumerate(groups):
        choices = tuple(request.args[1] for request in group)
        for start in range(0, len(choices), CHOICES_AT_ONCE):
            some = choices[start : start + CHOICES_AT_ONCE]
            question = Question(
                id=str(number), part="", cluster="", text="", options=some, gold=0
            )  # fmt: skip
            yield Item(
                task="lm-eval", form="cloze", question=question, context=context, choices=some,
                places=tuple(range(len(some))),
            )  # fmt: skip


def _seam(ids: list[int], first: int, has_prefix: bool = False) -> Seam:
    """One row of tokens, scored from `first` on."""
    return Seam(
        ids_C=(ids,), first_C=(first,), context_T=ids[:first], crossed=0, cut_C=(0,),
        has_prefix=has_prefix,
    )  # fmt: skip


def _pen(given: Mapping[str, Any], context_tokens: int) -> Pen:
    """How lm-eval's generation arguments say to write."""
    if given.get("do_sample") and given.get("temperature", 1.0):
        raise RecipeError(f"lm-eval: {json.dumps(dict(given))}: only greedy writing is offered")
    until = given.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    new_tokens = next((int(given[name]) for name in _LENGTHS if name in given), NEW_TOKENS)
    if not 0 < new_tokens < context_tokens:
        raise RecipeError(
            f"lm-eval: {new_tokens} new tokens; a model that reads {context_tokens} writes 1 to "
            f"{context_tokens - 1}"
        )
    return Pen(new_tokens=new_tokens, stops=tuple(stop for stop in stops if stop), bare=False)
