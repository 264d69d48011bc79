"""Every preset's path: smoke siblings run end to end, the full ones say what weights they expect."""

from pathlib import Path

import pytest

from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import make_plan
from clarep_ray.config import ExtractConfig
from clarep_ray.data.verify import verify
from clarep_ray.dotted import flatten, override
from clarep_ray.presets import EXTRACT

SMOKE = sorted(name for name in EXTRACT if name.endswith("_smoke"))


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("name", SMOKE)
def test_smoke_presets_run_end_to_end(name: str, tmp_path: Path) -> None:
    changes = {"output.path": str(tmp_path / "out"), "data.digits.count": 4, "tracking.enabled": False}
    summary = run_extraction(override(EXTRACT[name]().config, changes), lambda _: None)
    assert (summary["num_ok"], summary["rejects"]) == (4, {})
    assert verify(tmp_path / "out") == []


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_goes_all_the_way(precision: str, tmp_path: Path) -> None:
    changes = {
        "output.path": str(tmp_path / "out"),
        "data.digits.count": 4,
        "tracking.enabled": False,
        "model.precision": precision,
        "decoding.guided_channels": 3,  # DiT's reference behaviour
        "spectrum.max_products": 120,
    }
    summary = run_extraction(override(EXTRACT["dit_xl_256_smoke"]().config, changes), lambda _: None)
    assert (summary["num_ok"], summary["rejects"]) == (4, {})


@pytest.mark.parametrize("name", sorted(name for name in EXTRACT if f"{name}_smoke" in EXTRACT and name != "digits"))
def test_full_presets_name_the_weights_they_need_and_have_a_smoke_sibling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.weights: '.*weights/.*' (has no|is missing|is not a folder)"):
        make_plan(EXTRACT[name]().config)


@pytest.mark.parametrize("name", sorted(EXTRACT))
def test_every_value_that_is_no_default_carries_its_origin(name: str) -> None:
    preset = EXTRACT[name]()
    plain = flatten(ExtractConfig())
    changed = {field for field, value in flatten(preset.config).items() if value != plain[field]}
    assert changed <= preset.origins.keys()
    assert set(preset.origins.values()) <= {"paper", "inferred", "tuned", "default"}
