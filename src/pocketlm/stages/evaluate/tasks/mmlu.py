"""MMLU: 57 subjects of school, university and trade, four answers each.

Hendrycks et al. 2021 (arXiv 2009.03300). Rows: split, subject, question, choices, answer (a letter
or a place). Also read as published: `mmlu/dev/*.csv` and `mmlu/test/*.csv`, one file a subject
(`anatomy_test.csv`), no header line, columns question, A, B, C, D, answer.
Prompts are those of lm-evaluation-harness 0.4.13: `letters` its task mmlu, `cloze` its
mmlu_continuation; in both the first examples of the subject's dev split.
"""

from pocketlm.stages.evaluate.items import Form, Question, Task
from pocketlm.stages.evaluate.tasks.common import ask, exam


def _instruction(question: Question, form: Form) -> str:
    kind = "multiple choice questions" if form == "letters" else "questions"
    return f"The following are {kind} (with answers) about {question.part.replace('_', ' ')}.\n\n"


MMLU = Task(
    name="mmlu",
    group="Examination",
    in_paper=True,
    language="en",
    files=("mmlu",),
    example_files=(),
    questions=exam("test"),
    examples=exam("dev"),
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=ask("en"),
    instruction=_instruction,
    source="Hendrycks et al. 2021, arXiv 2009.03300; github.com/hendrycks/test; MIT",
    published=14_042,
    layout=("mmlu/dev/*.csv", "mmlu/test/*.csv"),
    columns=("question", "A", "B", "C", "D", "answer"),
)
