"""What a benchmark asks and what a model answered: the words all of this stage's files share.

A question is what the benchmark's file says; an item is that question as one model reads it, in one
form and with its examples; a record is what came out, complete enough that every metric and
normaliser can be computed again without the model. Shapes: C choices of an item.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["cloze", "letters", "continuation", "generation"]
"""`cloze`: the text of each answer is scored; `letters`: the answers stand in the prompt and their
letters are scored; `continuation`: whole texts are compared (BLiMP); `generation`: the model
writes."""
Row = Mapping[str, Any]
"""One row of a benchmark's file, as parsed."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark's file, before it has a form."""

    id: str
    """Unique in its task and the same on every machine."""
    part: str
    """Subject or set inside the task; one name where there are none."""
    cluster: str
    """Questions about one passage share it; else the id."""
    text: str
    """The question, without answers; empty for minimal pairs."""
    options: tuple[str, ...]
    """Answers as the file gives them; empty where the model writes."""
    gold: int
    """Place of the right option; -1 where the model writes."""
    passage: str = ""
    """What the question is about, where that stands apart."""
    reference: str = ""
    """The text a written answer is compared with."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question as a model reads it: `context`, then one of `choices`, nothing between."""

    task: str
    form: Form
    question: Question
    context: str
    """Instruction, examples, question; may be empty."""
    choices: tuple[str, ...]
    """What is appended and scored, a leading blank included where the language has one; for
    `generation` the reference alone."""
    places: tuple[int, ...]
    """Option of the question behind each choice."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one model made of one item. Every tuple has one entry a choice."""

    task: str
    form: Form
    item: str
    part: str
    cluster: str
    gold: int
    """Place of the right choice; 0 for `generation`, whose one choice is the reference."""
    nats: tuple[float, ...]
    """Summed -ln p of the choice after the context."""
    tokens: tuple[int, ...]
    """Tokens of the choice that were scored."""
    num_bytes: tuple[int, ...]
    """UTF-8 bytes of the choice."""
    num_characters: tuple[int, ...]
    """Without the blank that parts it from the context, as lm-eval counts them."""
    context_tokens: int
    """Tokens of the context that were read."""
    context_cut: int
    """Tokens of the context's beginning left out because the model reads no more."""
    seam: int
    """Choices whose first token swallows the end of the context when both are encoded as one."""
    prompt_sha256: str
    """Of context and choices."""
    written: str | None = None
    """What the model wrote, for `generation`."""
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark: where its rows are, what they mean, how they are asked.

    `questions` takes the rows of `files` in order and yields those that can be scored.
    """

    name: str
    group: Literal["Examination", "Knowledge", "Reasoning", "Understanding", "Language"]
    """The paper's group; `Language` for what it does not have."""
    in_paper: bool
    language: Literal["en", "zh"]
    files: tuple[str, ...]
    """Names looked for in the user's folder, each as .jsonl, .csv, .tsv or .parquet, also .gz; the
    first that is there is read."""
    example_files: tuple[str, ...]
    """The same for the examples of few-shot prompts; empty: `split = dev` of `files`, or none."""
    questions: Callable[[Iterable[Row]], Iterator[Question]]
    examples: Callable[[Iterable[Row]], Iterator[Question]] | None
    """Examples, in the file's order, a question's own part first; None where there are none."""
    forms: tuple[Form, ...]
    """Those it can be asked in, the default for small models first."""
    shots: int
    """Examples in a prompt by default."""
    metric: Literal["accuracy", "mcc", "rouge"]
    render: Callable[[Question, Form], tuple[str, tuple[str, ...]]]
    """(question, form) -> its part of the context, and the choices in the options' order."""
    instruction: Callable[[Question, Form], str]
    """What stands before the examples; may be empty."""
    between: str = "\n\n"
    """What stands between examples, and between the last and the question."""
    source: str = ""
    """Paper and where the data comes from, with its licence."""
    published: int = 0
    """Questions the published set yields; 0: not known."""
    layout: tuple[str, ...] = ()
    """Globs of the published files below the user's folder, where they are many; a row's `split` is
    their folder, its `subject` their name without it."""
    columns: tuple[str, ...] = ()
    """Columns of the files of `layout`, where they have no header line."""
    left_out: Callable[[Row], str] | None = None
    """Why a row of the questions' files cannot be scored; empty where it can."""
