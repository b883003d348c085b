"""From questions to items: instruction, examples and question become one context.

    context = instruction + example + between + ... + question        (example = question + answer)

Joined so, the prompts of lm-evaluation-harness 0.4.13 come out to the character where a task's file
says it follows them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pocketlm.errors import CorpusError, RecipeError
from pocketlm.stages.evaluate.items import Form, Item, Question, Task


def build_items(
    task: Task,
    questions: Iterable[Question],
    examples: Iterable[Question] = (),
    *,
    form: Form | None = None,
    shots: int | None = None,
) -> Iterator[Item]:
    """Items of one task in the questions' order, in one of its forms (None: its first).

    The first `shots` (None: the task's default) of a question's own part of `examples` stand before
    it, in the file's order, never the question itself: one of CMMLU's (college_law, 99) is among
    its five examples with its answers in another order, and gets the four others. Raises
    `RecipeError` for a form the task does not have or a negative number, `CorpusError` where a part
    has fewer examples.
    """
    form = task.forms[0] if form is None else form
    shots = task.shots if shots is None else shots
    if form not in task.forms:
        raise RecipeError(f"{task.name}: no form {form!r}; it has {', '.join(task.forms)}")
    if shots < 0:
        raise RecipeError(f"{task.name}: shots = {shots}; 0 or more is needed")
    by_part: defaultdict[str, list[Question]] = defaultdict(list)
    for example in examples if shots else ():
        by_part[example.part].append(example)
    return (
        _item(task, question, _shown(task, question, by_part[question.part], shots), form)
        for question in questions
    )


def _shown(
    task: Task, question: Question, pool: Sequence[Question], shots: int
) -> Sequence[Question]:
    """The first `shots` examples that are not the question itself, under whatever id."""
    if len(pool) < shots:
        have = f"{question.part!r} has {len(pool)} examples" if pool else "it has no examples"
        raise CorpusError(f"{task.name}: shots = {shots}, but {have}; give {len(pool)} or fewer")
    return [*islice((example for example in pool if not _same(example, question)), shots)]


def _same(example: Question, question: Question) -> bool:
    """One text and one set of answers, however ordered."""
    one, other = ((q.passage, q.text, sorted(q.options), q.reference) for q in (example, question))
    return example.id == question.id or one == other


def _item(task: Task, question: Question, examples: Sequence[Question], form: Form) -> Item:
    asked, choices = task.render(question, form)
    shown = [_with_answer(task, example, form) for example in examples]
    return Item(
        task=task.name,
        form=form,
        question=question,
        context=task.instruction(question, form) + task.between.join([*shown, asked]),
        choices=choices,
        places=tuple(range(len(choices))),
    )


def _with_answer(task: Task, example: Question, form: Form) -> str:
    asked, choices = task.render(example, form)
    return asked + choices[max(example.gold, 0)]  # a written answer is its only choice
