"""A saved model is not obeyed: it imports nothing, opens nothing outside of its folder, and asks no hub."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

import nh2st_graph as ng
from nh2st_graph import ConfigError, ModelError, RunError, tl
from nh2st_graph.models import ENTRY_POINTS

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

#: A method that leaves a trace when it is imported.
HELPER = """
from pathlib import Path
from nh2st_graph.models import Estimator

Path(__file__).with_name("imported").touch()


class Thing(Estimator):
    def fit(self, sections): ...

    def predict(self, section): return section.x[:, :1].expand(-1, 10).numpy() * 0

    def memory(self): return {}

    def restore(self, memory): ...
"""

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _as_it_was(own_methods: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the registry and the path as they were; the current folder is that of the helper."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text(HELPER)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved model, to be changed."""
    return Path(shutil.copytree(GOLDEN / "ridge_neighbours", tmp_path / "model"))


def describe(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.json"
    description = json.loads(file.read_text())
    change(description["config"])
    file.write_text(json.dumps(description))


def forget_origin(folder: Path) -> None:
    """Describe a model as the first versions did."""
    file = folder / "model.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "origin"}))


class TestMethod:
    @pytest.fixture
    def with_code(self, model: Path) -> Path:
        describe(model, lambda config: config.update(model={"name": "helper:Thing"}))
        shutil.copy("helper.py", model)
        return model

    @staticmethod
    def assert_nothing_was_imported(before: list[str]) -> None:
        assert "helper" not in sys.modules
        assert sys.path == before
        assert not list(Path().rglob("imported"))

    def test_is_not_imported_without_a_word(self, with_code):
        before = list(sys.path)
        with pytest.raises(ModelError, match=r"^model .*model: its method 'helper:Thing' .* trust=True$") as caught:
            ng.load(with_code)
        assert caught.value.at("flag", {"trust"}).endswith("give --trust")
        for call in (
            lambda: tl.predict_run(with_code, [GOLDEN / "sections" / "S3.h5ad"], "out"),
            lambda: tl.evaluate_run(with_code),
        ):
            with pytest.raises(ModelError, match="trust"):
                call()
        self.assert_nothing_was_imported(before)

    def test_an_installed_module_is_not_imported_either(self, model):
        describe(model, lambda config: config.update(model={"name": "this:Thing"}))
        sys.modules.pop("this", None)
        with pytest.raises(ModelError, match="trust"):
            ng.load(model)
        assert "this" not in sys.modules

    def test_is_imported_with_a_word(self, with_code):
        again = ng.load(with_code, trust=True)
        assert type(again.module).__name__ == "Thing"
        assert Path("imported").exists()

    def test_what_lies_in_the_current_folder_is_not_installed(self, model, monkeypatch):
        about = Path("evil-1.0.dist-info")
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nthing = helper:Thing\n")
        monkeypatch.syspath_prepend(str(Path.cwd()))
        describe(model, lambda config: config.update(model={"name": "thing"}))
        with pytest.raises(ModelError, match="no such method"):
            ng.load(model)
        assert "helper" not in sys.modules

    def test_the_configuration_of_a_run_is_not_obeyed(self, tmp_path):
        run = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
        stored = yaml.safe_load((run / "config.yaml").read_text())
        stored["model"] = {"name": "helper:Thing"}
        (run / "config.yaml").write_text(yaml.safe_dump(stored))
        before = list(sys.path)
        with pytest.raises(ModelError, match=r"^run .*run: its method 'helper:Thing' "):
            tl.evaluate_run(run)
        with pytest.raises(RunError, match=r"another configuration \(model: helper:Thing -> nh2st_graph\)"):
            tl.train_run(ng.Config(), run, resume=True)
        self.assert_nothing_was_imported(before)

    def test_an_unknown_name_is_said(self, model):
        describe(model, lambda config: config.update(model={"name": "ridge_neighbors"}))
        with pytest.raises(ModelError, match="did you mean 'ridge_neighbours'"):
            ng.load(model)


class TestPlaces:
    """Encoder files, hubs and cache folders."""

    @pytest.fixture
    def section(self, few_spots):
        return few_spots["S3"].copy()

    @pytest.fixture
    def saved(self, tiny_run, tmp_path) -> Path:
        folder = tmp_path / "saved"
        folder.mkdir()
        for name in ("model.json", "model.safetensors"):
            shutil.copy(tiny_run.folder / name, folder)
        return folder

    @pytest.fixture
    def asked(self, monkeypatch) -> list[str]:
        """What timm is asked for, which is refused."""
        names: list[str] = []

        make = timm.create_model

        def refuse(name: str, *, pretrained: bool = False, **how: Any) -> Any:
            if pretrained or ":" in name:
                names.append(name)
                raise OSError("no network here")
            return make(name, pretrained=False, **how)

        monkeypatch.setattr(timm, "create_model", refuse)
        return names

    @pytest.mark.parametrize(
        ("encoder", "place"),
        [
            ("timm:resnet18@/somewhere/weights.safetensors", "the file /somewhere/weights.safetensors"),
            ("squidpy:summary,timm-map:resnet18@weights.pth", "the file weights.pth"),
            ("timm:hf-hub:someone/something", "the hub's repository someone/something"),
            ("timm:local-dir:/somewhere", "the folder /somewhere"),
            ("kaiko-s16@/somewhere/weights.bin?size=112", "the file /somewhere/weights.bin"),
            ("hf:someone/something?pooling=cls&remote_code=true", "the hub's repository someone/something"),
            ("lazyslide:uni", "the hub's repository of LazySlide's uni"),
        ],
    )
    def test_an_encoder_is_neither_opened_nor_asked_for(self, saved, section, asked, encoder, place):
        describe(saved, lambda config: config["features"].update(encoder=encoder))
        model = ng.load(saved)
        with pytest.raises(ModelError, match=r"trust=True") as caught:
            tl.predict(section, model)
        assert place in str(caught.value)
        assert "encoder=" in str(caught.value)
        with pytest.raises(ModelError, match="not the one that it was trained with"):
            tl.predict(section, ng.load(saved, trust=True))
        assert asked == []
        forget_origin(saved)
        with pytest.raises(ConfigError):  # asked for now, and not there
            tl.predict(section, ng.load(saved, trust=True))

    @pytest.mark.parametrize(
        ("encoder", "other"),
        [
            ("squidpy:summary,timm:resnet18", "1 encoders -> 2"),
            ("timm:resnet18", "encoder: squidpy -> timm"),
            ("timm-map:resnet18.tv_in1k", "encoder: squidpy -> timm-map"),
        ],
    )
    @pytest.mark.parametrize("trust", [True, False])
    def test_an_encoder_other_than_that_of_training_is_not_asked_for(
        self, saved, section, asked, encoder, other, trust
    ):
        describe(saved, lambda config: config["features"].update(encoder=encoder))
        with pytest.raises(ModelError, match=f"{encoder}.*{other}"):
            tl.predict(section, ng.load(saved, trust=trust))
        assert asked == []

    def test_an_encoder_that_the_model_names_is_not_called_an_argument(self, saved, section, asked):
        describe(saved, lambda config: config["features"].update(encoder="squidpy:summary,timm:resnet18"))
        forget_origin(saved)
        with pytest.raises(ConfigError, match="the model's encoder 'timm:resnet18': its pretrained weights") as caught:
            tl.predict(section, ng.load(saved))
        assert "--encoder" not in caught.value.at("flag", {"encoder"})
        assert asked == ["resnet18"]
        with pytest.raises(ConfigError) as caught:
            tl.predict(section, ng.load(saved, encoder="timm:resnet18"))
        assert "--encoder timm:resnet18" in caught.value.at("flag", {"encoder"})

    @pytest.mark.parametrize("encoder", ["timm:hf-hub:someone/something", "timm-map:local-dir:/somewhere"])
    def test_the_architecture_of_a_fine_tuned_encoder_is_not_asked_for(self, saved, asked, encoder):
        describe(saved, lambda config: config["features"].update(encoder=encoder, finetune=True))
        with pytest.raises(ModelError, match="trust=True"):
            ng.load(saved)
        assert asked == []

    def test_the_caller_names_the_encoder(self, saved, section, tiny_run):
        describe(saved, lambda config: config["features"].update(encoder="timm:hf-hub:someone/something"))
        model = ng.load(saved, encoder="squidpy:summary")
        expected = tl.predict(section, tiny_run.model)
        assert (tl.predict(section, model).X == expected.X).all()
        with pytest.raises(ModelError, match=r"is not the one that the model was trained with \(other parts"):
            tl.predict(section, ng.load(saved, encoder="squidpy:histogram"))

    def test_a_stored_cache_folder_is_left_alone(self, saved, section, tmp_path, caplog):
        there, own = tmp_path / "theirs", tmp_path / "mine"
        describe(saved, lambda config: config["features"].update(cache=str(there)))
        with caplog.at_level("INFO", "nh2st_graph"):
            tl.predict(section, ng.load(saved))
        assert not there.exists()
        assert caplog.text.count(f"training kept features in {there}, which are not used unless") == 1
        caplog.clear()
        tl.predict(section, ng.load(saved, cache=own))
        assert len(list(own.glob("*.safetensors"))) == 1
        assert not there.exists()
        tl.predict(section, ng.load(saved, cache=False))
        tl.predict(section, ng.load(saved, trust=True))
        assert "training kept features" not in caplog.text
        assert len(list(there.glob("*.safetensors"))) == 1
        assert str(ng.load(saved).config.features.cache) == str(there), "the fact is kept"
