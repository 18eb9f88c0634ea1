"""What comes with data runs no code and takes no more than it says: from Python and the App."""

from __future__ import annotations

import http.server
import importlib
import json
import logging
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import psutil
import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.networks import build
from fiftyone_cam.plugin import model_sources, source_forms
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.base import ALONE
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.explain_sample import ExplainSample
from fiftyone_cam.plugin.operators.find_concepts import FindConcepts
from fiftyone_cam.plugin.operators.show_embeddings import ShowEmbeddings
from fiftyone_cam.plugin.translation_form import parse
from fiftyone_cam.runs.record import to_plain
from tests.helpers.networks import SQUARE, tiny_gap, write_photos
from tests.helpers.operators import context_of, execute


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch '{self.proof}'",)


@pytest.fixture()
def proof(tmp_path: Path) -> Path:
    """A file that is there once code has run."""
    return tmp_path / "proof"


@pytest.fixture()
def evil(tmp_path: Path, proof: Path) -> Iterator[Path]:
    """A file of weights that runs code where it is unpickled; in the end, it is unpickled to see that it does."""
    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Malicious(proof)}, path)
    yield path
    assert not proof.exists(), "code came with data, and ran"
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file was harmless: the test proves nothing"


@pytest.fixture()
def photos(dataset: fo.Dataset, tmp_path: Path) -> fo.Dataset:
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 4)])
    return dataset


# no code from data


def test_the_app_never_unpickles_a_file(photos, evil):
    """From the form, with the source named in the request, and with everything in it that a client could add."""
    asked = {"source": "weights", "weights": str(evil), "arch": "resnet18", "classes": "a, b", "trust_pickle": True}
    for params in (asked, {"classifier": str(evil), "arch": "resnet18", "classes": ["a"], "trust_pickle": True}):
        with pytest.raises(focam.SourceError, match="was not opened"):
            execute(ComputeCam(), photos, {"key": "cam", "kwargs": {"trust_pickle": True}, **params})
    scheduled = {"classifier": str(evil), "arch": "resnet18", "classes": ["a"], "trust_pickle": True}
    with pytest.raises(focam.SourceError, match="was not opened"):
        execute(ComputeCam(), photos, {"arguments": scheduled})
    assert focam.list_runs(photos) == []


def test_a_record_that_came_with_a_dataset_cannot_ask_for_code(photos, evil):
    """A dataset from elsewhere brings its runs along, and with them what loads their classifiers again."""
    run = focam.compute_cam(photos, focam.load_classifier(tiny_gap(), ["a", "b", "c"], preprocessing=SQUARE))
    sample = photos.first().id
    for kwargs in ({"trust_pickle": True}, {"trust_remote_code": True}, {"classes": ["a"], "code_revision": "main"}):
        run.update(loaded_from=[str(evil), kwargs])
        with pytest.raises(focam.SourceError, match="from Python only"):
            execute(ExplainSample(), photos, {"key": "cam", "label": "a"}, current_sample=sample)
        for operator in (FindConcepts(), ShowEmbeddings()):
            with pytest.raises(focam.SourceError, match="from Python only"):
                execute(operator, photos, {"key": "cam"})
    run.update(loaded_from=[str(evil), {"classes": ["a"], "arch": "resnet18"}])
    with pytest.raises(focam.SourceError, match="was not opened"):
        execute(ExplainSample(), photos, {"key": "cam", "label": "a"}, current_sample=sample)


def test_a_checkpoint_folder_runs_nothing(photos, tmp_path, proof, evil):
    folder = tmp_path / "checkpoint"
    focam.load_classifier("squeezenet1_1", weights=None).save(folder)
    good = shutil.copy(folder / "model.safetensors", tmp_path / "good.safetensors")
    shutil.copy(evil, folder / "model.safetensors")  # safetensors by its name only
    for load in (
        lambda: focam.load_classifier(folder),
        lambda: execute(ComputeCam(), photos, {"source": "checkpoint", "checkpoint": str(folder), "key": "cam"}),
    ):
        with pytest.raises(focam.SourceError, match="cannot be read as safetensors"):
            load()
    shutil.copy(good, folder / "model.safetensors")
    data = json.loads((folder / "classifier.json").read_text())
    for arch in ("timm:hf-hub:somebody/model", "timm:local-dir:/somewhere", "os.system", "../x", ["resnet18"], None):
        (folder / "classifier.json").write_text(json.dumps({**data, "arch": arch}))
        with pytest.raises(focam.SourceError):
            focam.load_classifier(folder)


@pytest.mark.parametrize("kind", ["remote code", "pickled weights"])
def test_hugging_face_folders_run_nothing(photos, tmp_path, proof, kind):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    model = transformers.ResNetForImageClassification(config)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    assert len(focam.load_classifier(f"hf:{folder}").classes) == 2
    if kind == "remote code":
        data = json.loads((folder / "config.json").read_text())
        names = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
        (folder / "config.json").write_text(json.dumps({**data, "model_type": "evil", "auto_map": names}))
        (folder / "evil.py").write_text(f"import os\nos.system('touch {proof}')\n")
    else:
        (folder / "model.safetensors").unlink()
        torch.save({name: Malicious(proof) for name in model.state_dict()}, folder / "pytorch_model.bin")
    for load in (
        lambda: focam.load_classifier(f"hf:{folder}"),
        lambda: execute(ComputeCam(), photos, {"source": "huggingface", "huggingface": str(folder), "key": "cam"}),
    ):
        with pytest.raises(focam.SourceError):
            load()
        assert not proof.exists()
    if kind == "remote code":  # asked for by name, it runs: the test proves something
        with pytest.raises(Exception):  # noqa: B017, the module has no Config
            focam.load_classifier(f"hf:{folder}", trust_remote_code=True)
        assert proof.exists()


def test_timm_runs_nothing(tmp_path, proof):
    timm = pytest.importorskip("timm")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 2}))
    torch.save({"fc.weight": Malicious(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(focam.SourceError):
        focam.load_classifier(f"timm:local-dir:{folder}")
    assert not proof.exists()
    with pytest.raises(Exception):  # noqa: B017, whatever it says of what it then finds
        timm.create_model(
            "resnet10t", num_classes=2, checkpoint_path=str(folder / "pytorch_model.bin"), weights_only=False
        )


# no more than it says


def test_an_archive_that_unpacks_to_more_is_not_opened(tmp_path):
    path = tmp_path / "bomb.pth"
    module = build("squeezenet1_1", 2)
    torch.save(module.state_dict(), path)
    assert focam.load_classifier(path, ["a", "b"], arch="squeezenet1_1").classes == ("a", "b")
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, bytes(len(content)) if "/data/" in name else content)
    assert (tmp_path / "small.pth").stat().st_size < path.stat().st_size / 50
    with pytest.raises(focam.SourceError, match="unpacks to"):
        focam.load_classifier(tmp_path / "small.pth", ["a", "b"], arch="squeezenet1_1")


def test_a_file_larger_than_memory_is_not_opened(tmp_path):
    for name in ("huge.pth", "huge.safetensors"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, psutil.virtual_memory().total + (1 << 40))  # a hole: takes no room
        with pytest.raises(focam.SourceError, match="are free in memory: it was not opened"):
            focam.load_classifier(tmp_path / name, ["a"], arch="resnet18")


# paths


def test_a_checkpoint_replaces_nothing_of_others(tmp_path):
    classifier = focam.load_classifier("squeezenet1_1", weights=None)
    for number, content in enumerate(("the only copy", "{}", '{"arch": "theirs"}', "[]")):
        folder = tmp_path / f"theirs{number}"
        folder.mkdir()
        (folder / "classifier.json").write_text(content)
        (folder / "model.safetensors").write_text(content)
        with pytest.raises(focam.SourceError, match="holds something else"):
            classifier.save(folder)
        assert {path.read_text() for path in folder.iterdir()} == {content}
    (tmp_path / "file").write_text("the only copy")
    with pytest.raises(focam.SourceError, match="holds something else"):
        classifier.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "the only copy"
    assert not list(tmp_path.glob(".*")), "something was left behind"


@pytest.mark.parametrize("text", ["a, " * 5000, "~nobody-of-this-name/x", "x\0y", "/" * 5000])
def test_whatever_is_typed_where_a_path_could_be_is_answered(photos, text):
    assert source_forms.SOURCES["checkpoint"].problem(text)
    assert source_forms.SOURCES["weights"].problem(text)
    assert model_sources.class_names(text)
    with pytest.raises(focam.SourceError):
        focam.load_classifier(text)
    with pytest.raises(focam.SourceError):
        model_sources.load(text, {})
    with pytest.raises(focam.CamError):
        parse(text)
    assert AuditAttention().resolve_input(context_of(photos, {"key": "cam", "class_map": text})).type.properties


def test_a_file_of_class_names_is_a_short_text(tmp_path):
    path = tmp_path / "names.txt"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(focam.SourceError, match="too large to be a list of class names"):
        model_sources.class_names(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(focam.SourceError, match="cannot be read as class names"):
        model_sources.class_names(str(path))


# secrets, and the network


@pytest.fixture()
def hub() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server in place of the Hugging Face Hub, which has nothing, and writes down what it is sent."""
    seen: list[dict[str, str]] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


SECRET = "hf_thisTokenOpensPrivateModels"


def test_the_token_goes_to_the_hub_and_nowhere_else(photos, hub, monkeypatch, caplog, capfd):
    """A private model is asked for with FiftyOne's plugin secret, which is in no record, log, message or output."""
    pytest.importorskip("huggingface_hub")
    address, seen = hub
    for name in ("constants", "file_download", "hf_api"):
        module = importlib.import_module(f"huggingface_hub.{name}")
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    context = context_of(
        photos, {"source": "huggingface", "huggingface": "somebody/private", "key": "cam", ALONE: True}
    )
    context._required_secret_keys = ["HF_TOKEN"]  # as FiftyOne passes what fiftyone.yml declares
    context._secrets_client.register_operator(operator_uri=context._operator_uri, required_secrets=["HF_TOKEN"])
    with pytest.raises(focam.SourceError, match="Hugging Face cannot load 'somebody/private'") as error:
        list(ComputeCam().execute(context))
    assert any(headers.get("authorization") == f"Bearer {SECRET}" for headers in seen), seen
    written = str(error.value) + caplog.text + "".join(capfd.readouterr())
    stored = [str(document) for name in ("runs", "datasets") for document in fo.core.odm.get_db_conn()[name].find()]
    assert SECRET not in written + "".join(stored)


def test_a_secret_given_in_python_is_not_recorded(photos, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    classifier = focam.load_classifier(f"hf:{tmp_path / 'model'}", token=SECRET)
    run = focam.compute_cam(photos, classifier)
    assert run.complete
    assert SECRET not in json.dumps(to_plain(run.record)) + str(run) + repr(classifier)


def test_nothing_listens(photos):
    """Computing, exporting and auditing open no port."""
    process = psutil.Process()

    def listening() -> set[Any]:
        return {entry.laddr for entry in process.net_connections() if entry.status == psutil.CONN_LISTEN}

    before, during = listening(), set()
    classifier = focam.load_classifier(tiny_gap(), ["a", "b", "c"], preprocessing=SQUARE)
    focam.compute_cam(photos, classifier, progress=lambda bar: during.update(listening()))
    focam.audit(photos, "cam")
    assert during | listening() == before
