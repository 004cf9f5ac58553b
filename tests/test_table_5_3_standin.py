"""Table 5.3 on the stand-in: every line runs on a small sibling, and results say that they are none of SVHN."""

import json

import numpy as np
import pytest

from experiments import ccexam_network, table_5_3_standin
from foreign_digits import sibling_state, write_state


@pytest.mark.thorough
def test_smoke(tmp_path, monkeypatch):
    model = ccexam_network.load(write_state(tmp_path / "sibling.pth", sibling_state(), monkeypatch))
    rng = np.random.default_rng(0)
    few = ccexam_network.Samples(rng.integers(0, 256, (3, 32, 32, 3), np.uint8), np.array([0, 1, 2]))
    photographs = (rng.integers(0, 256, (50, 50, 3), np.uint8),)
    config = table_5_3_standin.smoke_config()
    found = table_5_3_standin.run(config, tmp_path, model, photographs=photographs, samples=few, progress=False)
    assert list(found) == ["stand-in", "four-images"]
    for name, count in (("stand-in", 4), ("four-images", 3)):
        results = json.loads((tmp_path / f"table_5_3_{name}.json").read_text())
        assert results == json.loads(json.dumps(found[name]))
        assert "no figure" in results["data"]
        assert results["images"] == {"used": count, "of": count}
        assert results["config"]["fill"] == 0.5
        assert results["published"] is None
        assert (tmp_path / f"table_5_3_{name}.png").is_file()


def test_a_package_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ccexam_network, "VERSION", "0.0")
    with pytest.raises(SystemExit) as ended:
        table_5_3_standin.main(["--workdir", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("table_5_3_standin: error: expected the package ccexam==0.0, got")
