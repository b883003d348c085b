"""C-Eval: 52 subjects of Chinese schools and trades, four answers each.

Huang et al. 2023 (arXiv 2305.08322). Scored on `val`, since the answers of `test` are not public.
Rows: split, subject, question, choices, answer (a letter). Also read as published:
`ceval/dev/*.csv` and `ceval/val/*.csv`, one file a subject (`law_val.csv`), columns id, question,
A, B, C, D, answer, in dev explanation too.
The prompt of `letters` is that of lm-evaluation-harness 0.4.13, task ceval-valid; examples are the
first of the subject's dev split.
"""

from pocketlm.stages.evaluate.items import Form, Question, Task
from pocketlm.stages.evaluate.tasks.common import ask, exam
from pocketlm.stages.evaluate.tasks.subjects import CEVAL_SUBJECTS


def _instruction(question: Question, form: Form) -> str:
    subject = CEVAL_SUBJECTS.get(question.part, question.part)
    if form == "letters":
        return f"以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n"
    return f"以下是中国关于{subject}的问题及答案。\n\n"


CEVAL = Task(
    name="ceval",
    group="Examination",
    in_paper=True,
    language="zh",
    files=("ceval",),
    example_files=(),
    questions=exam("val"),
    examples=exam("dev"),
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=ask("zh"),
    instruction=_instruction,
    source="Huang et al. 2023, arXiv 2305.08322; github.com/hkust-nlp/ceval; CC BY-NC-SA 4.0",
    published=1_346,
    layout=("ceval/dev/*.csv", "ceval/val/*.csv"),
)
