"""CMMLU: 67 subjects asked in Chinese, four answers each.

Li et al. 2023 (arXiv 2306.09212). Rows: split, subject, question, choices, answer (a letter). Also
read as published: `cmmlu/dev/*.csv` and `cmmlu/test/*.csv`, one file a subject (`anatomy.csv`),
columns Question, A, B, C, D, Answer and a nameless one of numbers.
The prompt of `letters` is that of lm-evaluation-harness 0.4.13, task cmmlu; examples are the first
of the subject's dev split.
"""

from pocketlm.stages.evaluate.items import Form, Question, Task
from pocketlm.stages.evaluate.tasks.common import ask, exam
from pocketlm.stages.evaluate.tasks.subjects import CMMLU_SUBJECTS


def _instruction(question: Question, form: Form) -> str:
    subject = CMMLU_SUBJECTS.get(question.part, question.part)
    if form == "letters":
        return f"以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n\n"
    return f"以下是关于{subject}的问题及答案。\n\n"


CMMLU = Task(
    name="cmmlu",
    group="Examination",
    in_paper=True,
    language="zh",
    files=("cmmlu",),
    example_files=(),
    questions=exam("test"),
    examples=exam("dev"),
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=ask("zh"),
    instruction=_instruction,
    source="Li et al. 2023, arXiv 2306.09212; github.com/haonan-li/CMMLU; CC BY-NC-SA 4.0",
    published=11_582,
    layout=("cmmlu/dev/*.csv", "cmmlu/test/*.csv"),
)
