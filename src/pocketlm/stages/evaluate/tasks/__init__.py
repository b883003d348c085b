"""The benchmarks: the paper's ten in the order of its table, then what suits small models.

Each file says what its rows mean and how its questions are asked; no data is shipped.
"""

from pocketlm.stages.evaluate.items import Task
from pocketlm.stages.evaluate.tasks.agieval import AGIEVAL
from pocketlm.stages.evaluate.tasks.arc import ARC_C, ARC_E
from pocketlm.stages.evaluate.tasks.axb import AXB
from pocketlm.stages.evaluate.tasks.blimp import BLIMP
from pocketlm.stages.evaluate.tasks.boolq import BOOLQ
from pocketlm.stages.evaluate.tasks.c3 import C3
from pocketlm.stages.evaluate.tasks.ceval import CEVAL
from pocketlm.stages.evaluate.tasks.cmmlu import CMMLU
from pocketlm.stages.evaluate.tasks.eprstmt import EPRSTMT
from pocketlm.stages.evaluate.tasks.mmlu import MMLU
from pocketlm.stages.evaluate.tasks.piqa import PIQA
from pocketlm.stages.evaluate.tasks.xsum import XSUM

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(CEVAL, CMMLU, MMLU, AGIEVAL, BOOLQ, AXB, PIQA, EPRSTMT, XSUM, C3),
        *(BLIMP, ARC_E, ARC_C),
    )
}
"""Every benchmark by its name."""
