"""Records survive the disk, are scored again without a model, and refuse what does not belong."""

import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pocketlm.errors import DamagedArtifact, StageError
from pocketlm.stages.evaluate.averages import score_all
from pocketlm.stages.evaluate.columns import from_records, to_records
from pocketlm.stages.evaluate.items import Record, Task
from pocketlm.stages.evaluate.provenance import Origin, Provenance, as_json, from_json, origin_of
from pocketlm.stages.evaluate.records import read_records, rescore, write_records

PROVENANCE = Provenance(
    tasks={
        "c3": Origin(group="Understanding", in_paper=True, metric="accuracy", form="cloze",
                     shots=0, data={"c3.jsonl": "ab12"}),
        "xsum": Origin(group="Understanding", in_paper=True, metric="rouge", form="generation",
                       shots=0, data={"xsum.jsonl": "cd34"}),
    },
    tokenizer="t", weights="w", seam="healed", versions={"pocketlm": "0.1.0"},
    more={"dtype": "float32"},
)  # fmt: skip


def records(count: int = 40, *, choices: int = 4, task: str = "c3") -> list[Record]:
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        lengths = tuple(rng.integers(2, 20, choices).tolist())
        made.append(
            Record(
                task=task, form="cloze", item=f"{task}-{n}", part="d" if n % 3 else "m",
                cluster=f"p{n // 2}", gold=int(rng.integers(choices)),
                nats=tuple((rng.gamma(4, 0.4, choices) * lengths).tolist()),
                tokens=(1,) * choices, num_bytes=lengths, num_characters=lengths[::-1],
                context_tokens=7, context_cut=n % 2, seam=0, prompt_sha256=f"{n:064x}",
            )
        )  # fmt: skip
    return made


def written(text: str | None) -> Record:
    return dataclasses.replace(
        records(1)[0], task="xsum", form="generation", gold=0, nats=(3.0,), tokens=(2,),
        num_bytes=(6,), num_characters=(2,), written=text, reference="猫坐",
    )  # fmt: skip


def test_parquet_gives_everything_back(tmp_path: Path) -> None:
    made = records()
    if importlib.util.find_spec("rouge_score") is not None:
        made += [written("")]
    path = tmp_path / "items.parquet"
    write_records(from_records(made), PROVENANCE, path)
    columns, provenance = read_records(path)
    assert to_records(columns) == made
    assert provenance == PROVENANCE
    table = pq.read_table(path)  # anybody's program can read it
    assert table.column("nats").to_pylist()[0] == list(made[0].nats)


@pytest.mark.parametrize("normaliser", ["bytes", "characters", "none"])
def test_scoring_again_is_scoring(tmp_path: Path, normaliser: str) -> None:
    columns, path = from_records(records()), tmp_path / "items.parquet"
    write_records(columns, PROVENANCE, path)
    assert rescore(path, normaliser=normaliser) == score_all(
        columns, PROVENANCE, normaliser=normaliser
    )


def test_the_recorded_normaliser_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    own = dataclasses.replace(PROVENANCE, normaliser="none")
    write_records(from_records(records()), own, path)
    assert rescore(path).normaliser == "none"


def test_sixty_thousand_items_are_scored_again_in_a_second(tmp_path: Path) -> None:
    """Processor time: the machine may be busy. Measured: 0.3 s."""
    columns = from_records(records(6000))
    many = columns.take(np.tile(np.arange(6000), 10))
    many = dataclasses.replace(
        many, item_N=np.array([f"i{n}" for n in range(60_000)], dtype=object)
    )
    write_records(many, PROVENANCE, tmp_path / "items.parquet")
    rescore(tmp_path / "items.parquet")  # imports
    started = time.process_time()
    found = rescore(tmp_path / "items.parquet", normaliser="characters")
    assert time.process_time() - started < 1.0
    assert found.tasks[0].num_items == 60_000


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    columns = from_records(records())
    with pytest.raises(StageError, match="c3: records without provenance"):
        write_records(columns, dataclasses.replace(PROVENANCE, tasks={}), path)
    write_records(columns, PROVENANCE, path)
    table = pq.read_table(path)
    changed = table.set_column(
        table.column_names.index("gold"), "gold", [[0] * len(columns)]
    ).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, path)
    with pytest.raises(DamagedArtifact, match="not those that were written"):
        read_records(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DamagedArtifact, match="no readable provenance"):
        read_records(path)
    pq.write_table(table.drop_columns(["nats"]), path)
    with pytest.raises(DamagedArtifact, match="nats"):
        read_records(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        read_records(path)


def test_another_form_than_the_provenance_s_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    letters: dict[str, Any] = {"c3": dataclasses.replace(PROVENANCE.tasks["c3"], form="letters")}
    own = dataclasses.replace(PROVENANCE, tasks=letters)
    write_records(from_records(records()), own, path)
    with pytest.raises(DamagedArtifact, match="cloze"):
        read_records(path)


def test_provenance_reads_back_and_another_format_is_named() -> None:
    text = as_json(PROVENANCE)
    assert from_json(text, "here") == PROVENANCE
    with pytest.raises(DamagedArtifact, match="here: records of format 2"):
        from_json(text.replace('"format": 1', '"format": 2'), "here")


def test_the_origin_of_a_task_is_its_own() -> None:
    task = Task(
        name="c3", group="Understanding", in_paper=True, language="zh", files=("c3",),
        example_files=(), questions=lambda rows: iter(()), examples=None, forms=("cloze",),
        shots=0, metric="accuracy", render=lambda question, form: ("", ()),
        instruction=lambda question, form: "",
    )  # fmt: skip
    assert (
        origin_of(task, form="cloze", shots=0, data={"c3.jsonl": "ab12"})
        == (PROVENANCE.tasks["c3"])
    )
