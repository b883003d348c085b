"""Keys leave defaults out, so a default may only change together with its stage's VERSION."""

import json
from pathlib import Path

import pytest

from pocketlm.recipe import Recipe
from pocketlm.stages import STAGES, VERSIONS

PINNED = Path(__file__).with_name("golden_defaults.json")


def now(stage: str) -> dict[str, object]:
    model = Recipe.model_fields[stage].annotation
    fields = model.model_fields.items()  # type: ignore[union-attr]  # every stage is a table
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    return {"version": VERSIONS[stage], "defaults": json.loads(json.dumps(defaults, default=str))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_default_raises_its_stages_version(stage: str) -> None:
    """New fields are welcome (pin them too); a changed or gone one is another result."""
    before, after = json.loads(PINNED.read_text(encoding="utf-8"))[stage], now(stage)
    old, new = before["defaults"], after["defaults"]
    changed = {name for name, value in old.items() if name not in new or new[name] != value}
    assert not changed or after["version"] != before["version"], (
        f"{sorted(changed)} of [{stage}]: raise VERSIONS[{stage!r}] in pocketlm/stages/__init__.py "
        f"and pin the new defaults in {PINNED.name}"
    )
    assert before["version"] == after["version"], f"pin the defaults of this version: {after}"
    assert new.keys() == old.keys(), f"pin them too: {sorted(new.keys() - old.keys())}"
