"""The main job on real FiftyOne datasets: what is written, what is left alone, what is refused, what survives."""

from __future__ import annotations

import importlib.metadata
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import torch
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.core import compilation, network
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.engines import local
from fiftyone_cam.runs.record import Counts, Settings, to_plain
from tests.helpers.networks import NAMES, SQUARE, Brightness, tiny_gap, write_photos
from tests.helpers.stored_runs import snapshot


def test_what_is_stored_restores_the_logit(photos, classifier):
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    assert run.complete
    assert run.counts == Counts(samples=12, computed=12, failed=0, new=12)
    assert 0 < run.certificate <= 1e-5
    assert "pixels not compared (the preprocessing was given as data" in str(run)
    for sample in photos:
        heat, prediction = sample.cam_heatmap, sample.cam_prediction
        with torch.no_grad(), classifier.network.evaluating():
            image = torch.from_numpy(np.array(Image.open(sample.filepath).convert("RGB"))).permute(2, 0, 1)
            batch = SQUARE.normalize(SQUARE.apply(image)[None])
            logits = classifier.network.module(batch)[0]  # the bare network, nothing of ours around it
        best = int(logits.argmax())
        assert prediction.label == heat.label == NAMES[best]
        assert prediction.confidence == pytest.approx(float(logits.softmax(0)[best]), rel=1e-4)
        assert heat.logit == pytest.approx(float(logits[best]), rel=1e-4)
        assert heat.cam.grid.dtype == np.float32
        assert heat.cam.grid.shape == (16, 16)
        assert heat.cam.grid.mean(dtype=float) + heat.cam.bias == pytest.approx(heat.logit, rel=1e-5, abs=1e-6)
        assert heat.map.dtype == np.float32
        assert heat.map.shape == (72, 96)
        assert focam.signed_map(heat, (480, 640)).shape == (480, 640)
        wrong = prediction.label != sample.ground_truth.label
        assert (sample.cam_contrast is not None) == wrong
        if wrong:
            gap = float(logits[best] - logits[NAMES.index(sample.ground_truth.label)])
            assert sample.cam_contrast.logit == pytest.approx(gap, rel=1e-3, abs=1e-5)
            cam = sample.cam_contrast.cam
            assert cam.grid.mean() + cam.bias == pytest.approx(gap, rel=1e-3, abs=1e-5)
            assert sample.cam_contrast.versus == sample.ground_truth.label
    predicted, true = photos.values(["cam_prediction.label", "ground_truth.label"])
    assert run.record.accuracy == pytest.approx(np.mean(np.array(predicted) == np.array(true)))
    assert len(photos.match(F("cam_prediction.label") != F("ground_truth.label"))) == photos.count("cam_contrast")


def test_no_label_is_shared_and_a_second_run_does_nothing(photos, classifier):
    focam.compute_cam(photos, classifier)
    ids = photos.values("cam_heatmap.id") + photos.values("cam_prediction.id")
    assert len(set(ids)) == 24
    before = snapshot(photos, "cam_heatmap"), photos.values("last_modified_at")
    run = focam.compute_cam(photos, classifier)
    assert run.counts.new == 0
    assert (snapshot(photos, "cam_heatmap"), photos.values("last_modified_at")) == before


def test_only_new_samples_are_computed_and_overwrite_computes_all(photos, classifier, tmp_path):
    focam.compute_cam(photos[:5], classifier)
    old = snapshot(photos, "cam_heatmap")
    run = focam.compute_cam(photos, classifier)
    assert run.counts.new == 7
    assert run.counts.computed == 12
    now = snapshot(photos, "cam_heatmap")
    assert all(now[id] == old[id] for id in photos[:5].values("id"))
    photos.add_samples([fo.Sample(filepath=p) for p in write_photos(tmp_path, 3, seed=9)])
    assert focam.compute_cam(photos, classifier).counts.new == 3
    assert focam.compute_cam(photos, classifier, overwrite=True).counts.new == 15


def test_results_do_not_depend_on_batches_threads_or_views(photos, classifier):
    focam.compute_cam(photos, classifier, "one", batch_size=1, engine=focam.Local(num_workers=1))
    focam.compute_cam(photos, classifier, "many", batch_size=5, engine=focam.Local(num_workers=4))
    focam.compute_cam(photos.shuffle(seed=1), classifier, "view", batch_size=32)
    for key in ("many", "view"):
        assert photos.values(f"{key}_prediction.label") == photos.values("one_prediction.label")
        for a, b in zip(photos.values(f"{key}_heatmap"), photos.values("one_heatmap"), strict=True):
            np.testing.assert_allclose(a.cam.grid, b.cam.grid, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_long_run_compiles_on_the_way_and_loses_nothing(photos, classifier, tmp_path, monkeypatch):
    more = write_photos(tmp_path, 40, seed=1)
    photos.add_samples([fo.Sample(filepath=path) for path in [*more[:20], str(tmp_path / "gone.jpg"), *more[20:]]])
    focam.compute_cam(photos, classifier, "plain", batch_size=8)
    made = []
    load = compilation.load_compiled
    monkeypatch.setattr(
        network, "compile_forward", lambda *args: made.append(compilation.compile_forward(*args)) or made[-1]
    )
    monkeypatch.setattr(local, "COMPILING_PAYS", 0.0)
    run = focam.compute_cam(photos, classifier, "compiled", batch_size=8)
    assert len(made) == 1
    assert callable(made[0])
    assert run.record.timing.compiling > 0
    assert run.counts == Counts(samples=53, computed=52, failed=1, new=53)
    assert run.record.timing.images == 52
    # the next run has it from disk, in a thread as well, where nothing may be traced
    loaded = []
    monkeypatch.setattr(network, "load_compiled", lambda *args: loaded.append(load(*args)) or loaded[-1])
    monkeypatch.setattr(local, "LOADING_PAYS", 0.0)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(focam.compute_cam, photos, classifier, "again", batch_size=8).result()
    assert len(made) == 1
    assert callable(loaded[0])
    for key in ("compiled", "again"):
        assert photos.values(f"{key}_prediction.label") == photos.values("plain_prediction.label")
        for a, b in zip(photos.values(f"{key}_heatmap"), photos.values("plain_heatmap"), strict=True):
            if b is not None:
                np.testing.assert_allclose(a.cam.grid, b.cam.grid, rtol=1e-3, atol=1e-4 * np.abs(b.cam.grid).max())


def test_views_of_every_kind(photos, classifier):
    chosen = photos.values("id")[3:6]
    focam.compute_cam(photos.select(chosen), classifier)
    assert sorted(photos.exists("cam_heatmap").values("id")) == sorted(chosen)
    dogs = photos.match(F("ground_truth.label") == "dog")
    focam.compute_cam(dogs.select_fields("ground_truth"), classifier)
    assert len(dogs.exists("cam_heatmap")) == 4


def test_a_group_slice(tmp_path, dataset, classifier):
    dataset.add_group_field("group", default="left")
    samples = []
    for left, right in zip(write_photos(tmp_path, 3), write_photos(tmp_path, 3, seed=5), strict=True):
        group = fo.Group()
        samples += [
            fo.Sample(filepath=left, group=group.element("left")),
            fo.Sample(filepath=right, group=group.element("right")),
        ]
    dataset.add_samples(samples)
    focam.compute_cam(dataset, classifier, "cam")
    focam.compute_cam(dataset.select_group_slices("right"), classifier, "other")
    left, right = (dataset.select_group_slices(name) for name in ("left", "right"))
    assert (left.count("cam_heatmap"), right.count("cam_heatmap")) == (3, 0)
    assert (left.count("other_heatmap"), right.count("other_heatmap")) == (0, 3)


def test_what_has_no_images_of_its_own_is_refused(photos, classifier):
    boxes = [fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1])]) for _ in range(12)]
    photos.set_values("boxes", boxes)
    with pytest.raises(focam.RunError, match="found a PatchesView"):
        focam.compute_cam(photos.to_patches("boxes"), classifier)
    with pytest.raises(focam.RunError, match="there are no samples"):
        focam.compute_cam(photos.match(F("filepath") == "nowhere"), classifier)
    with pytest.raises(focam.RunError, match="expected a FiftyOne dataset or view, found list"):
        focam.compute_cam([], classifier)
    video = fo.Dataset()
    video.add_sample(fo.Sample(filepath="film.mp4"))
    with pytest.raises(focam.RunError, match=r"found media of type 'video'.*to_frames"):
        focam.compute_cam(video, classifier)
    video.delete()


def test_top_k_and_sigmoid(photos):
    classifier = focam.load_classifier(tiny_gap(), NAMES, preprocessing=SQUARE, activation="sigmoid")
    focam.compute_cam(photos, classifier, top_k=3)
    for sample in photos:
        top = sample.cam_top.classifications
        heats = [sample.cam_heatmap, sample.cam_heatmap_2, sample.cam_heatmap_3]
        assert [c.label for c in top] == [h.label for h in heats]
        assert sorted(c.label for c in top) == sorted(NAMES)
        for c, h in zip(top, heats, strict=True):
            assert c.confidence == pytest.approx(1 / (1 + np.exp(-h.logit)), rel=1e-4)


def test_imagenets_classes_have_everyday_words_ready(photos):
    photos.set_values("animal", [fo.Classification(label=word) for word in ("cat", "dog", "bird") * 4])
    network = focam.load_classifier("squeezenet1_1", weights=None, preprocessing=SQUARE)
    run = focam.compute_cam(photos, network, ground_truth="animal", class_map="imagenet-groups")
    words = run.record.settings.class_map
    assert (words["tabby"], words["Chihuahua"], words["cock"]) == ("cat", "dog", "bird")
    right = [words.get(sample.cam_prediction.label) == sample.animal.label for sample in photos]
    assert run.record.accuracy == pytest.approx(np.mean(right))
    report = focam.audit(photos, "cam", class_map="imagenet-groups")
    assert photos.values("cam_correct") == right
    assert report.run.record.audit.class_map == sorted(map(list, words.items()))


def test_class_map_decides_what_is_right(photos, classifier):
    photos.set_values("species", [fo.Classification(label=["pet", "fish"][i % 2]) for i in range(12)])
    with pytest.raises(focam.FieldError, match=r"class_map translates .*horse"):
        focam.compute_cam(photos, classifier, ground_truth="species", class_map={"horse": "pet"})
    words = {"cat": "pet", "dog": "pet", "fish": "fish"}
    run = focam.compute_cam(photos, classifier, ground_truth="species", class_map=words)
    right = [
        words[p] == t
        for p, t in zip(photos.values("cam_prediction.label"), photos.values("species.label"), strict=True)
    ]
    assert run.record.accuracy == pytest.approx(np.mean(right))
    assert [c is None for c in photos.values("cam_contrast")] == right
    for sample in photos.exists("cam_contrast"):
        rivals = {name: classifier.explain(sample.filepath, [name]).maps[0].logit for name in NAMES}
        group = [name for name in NAMES if words[name] == sample.species.label]
        assert sample.cam_contrast.versus == max(group, key=rivals.__getitem__)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number"),
        ({"batch_size": "4"}, "batch_size is '4', expected a whole number"),
        ({"top_k": 2.0}, "top_k is 2.0, expected a whole number"),
        ({"top_k": 9}, "top_k is 9, expected 1 to 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int8"}, "unknown precision 'int8'"),
        ({"precision": "float16", "device": "cpu"}, "float16 needs a GPU"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"key": None}, "None is not a valid key"),
        ({"class_map": "pets"}, "neither a ready translation nor a JSON file"),
        ({"class_map": {"cat": ["pet"]}}, "expected classes with their labels"),
    ],
)
def test_settings_that_make_no_sense_leave_nothing_behind(photos, classifier, settings, reason):
    schema = list(photos.get_field_schema())
    with pytest.raises(focam.CamError, match=re.escape(reason)):
        focam.compute_cam(photos, classifier, **{"ground_truth": "ground_truth", **settings})
    assert list(photos.get_field_schema()) == schema
    assert not photos.list_runs()


def test_a_ground_truth_that_does_not_fit(photos, classifier):
    with pytest.raises(focam.FieldError, match=r"no field 'truth'.*ground_truth"):
        focam.compute_cam(photos, classifier, ground_truth="truth")
    with pytest.raises(focam.FieldError, match=r"of type .*, expected Classification"):
        focam.compute_cam(photos, classifier, ground_truth="filepath")
    photos.set_values("breed", [fo.Classification(label="pug") for _ in range(12)])
    with pytest.raises(focam.FieldError, match=r"no label of 'breed' matches a class: found \['pug'\].*class_map"):
        focam.compute_cam(photos, classifier, ground_truth="breed")
    photos.set_values(
        "breed", [fo.Classification(label=label) if label else None for label in [None, "pug", *["cat"] * 10]]
    )
    run = focam.compute_cam(photos, classifier, ground_truth="breed")
    assert run.record.unknown_labels == 1
    cats = photos.skip(2).values("cam_prediction.label")
    assert run.record.accuracy == cats.count("cat") / 10  # of a pug nobody knows whether it was right
    focam.audit(photos, "cam")
    judged = [right for right in photos.values("cam_correct") if right is not None]
    assert run.record.accuracy == np.mean(judged)
    # a view that happens to have no label of a class is part of a dataset that has
    assert focam.compute_cam(photos.limit(2), classifier, ground_truth="breed").counts.computed == 2
    with pytest.raises(focam.FieldError, match="written by run 'cam' itself: it cannot be its ground truth"):
        focam.compute_cam(photos, classifier, ground_truth="cam_prediction", overwrite=True)
    with pytest.raises(focam.FieldError, match="written by run 'cam' itself: it cannot be its objects"):
        focam.audit(photos, "cam", objects="cam_peak")
    assert photos.first().cam_contrast is None
    assert photos.skip(1).first().cam_contrast is None
    assert not photos.has_sample_field("other_heatmap")
    assert focam.list_runs(photos) == ["cam"]


def test_what_the_user_wrote_is_never_overwritten(photos, classifier):
    photos.set_values("mine_heatmap", ["precious"] * 12)
    with pytest.raises(focam.FieldError, match="'mine_heatmap' exists and was not written by run 'mine'"):
        focam.compute_cam(photos, classifier, "mine")
    assert photos.values("mine_heatmap") == ["precious"] * 12
    assert not photos.has_sample_field("mine_prediction")  # where one name is taken, none is declared
    if "mine" in focam.list_runs(photos):
        focam.delete_run(photos, "mine")
    assert photos.values("mine_heatmap") == ["precious"] * 12

    photos.register_run("theirs", photos.init_run(method="other"))
    with pytest.raises(focam.RunError, match="belongs to a run that this project did not make"):
        focam.compute_cam(photos, classifier, "theirs")
    for key in ("two words", "1st", "_hidden", "dot.ted", "", "$set"):
        with pytest.raises(focam.RunError, match="is not a valid key"):
            focam.compute_cam(photos, classifier, key)


def test_another_configuration_needs_another_key_or_overwrite(photos, classifier):
    focam.compute_cam(photos, classifier)
    other = focam.load_classifier(tiny_gap(seed=7), NAMES, preprocessing=SQUARE)
    with pytest.raises(focam.RunError, match=r"another classifier.*overwrite=True"):
        focam.compute_cam(photos, other)
    with pytest.raises(focam.RunError, match="precision was 'float32', now 'bfloat16'"):
        focam.compute_cam(photos, classifier, precision="bfloat16")
    old = photos.values("cam_heatmap.logit")
    run = focam.compute_cam(photos[:4], other, overwrite=True)
    assert run.counts.computed == 4
    assert photos.count("cam_heatmap") == 4, "results of the first classifier survived under the key"
    assert photos[:4].values("cam_heatmap.logit") != old[:4]


def test_bfloat16_is_close_and_still_exact(photos, classifier):
    focam.compute_cam(photos, classifier)
    run = focam.compute_cam(photos, classifier, "half", precision="bfloat16")
    assert run.certificate <= 1e-5
    full, half = photos.values(["cam_heatmap.logit", "half_heatmap.logit"])
    np.testing.assert_allclose(half, full, atol=0.05)


def test_failures_cost_one_sample_and_are_retried_when_asked(photos, classifier, tmp_path):
    paths = photos.values("filepath")
    content = Path(paths[4]).read_bytes()
    Path(paths[4]).write_text("no picture")
    Path(paths[7]).unlink()
    run = focam.compute_cam(photos, classifier, batch_size=4)
    assert run.counts == Counts(samples=12, computed=10, failed=2, new=12)
    assert sum(run.failures.values()) == 2
    assert "file not found" in run.failures
    assert "file not found" in str(run)
    broken = photos.exists("cam_error").values("filepath")
    assert sorted(broken) == sorted([paths[4], paths[7]])
    assert photos.exists("cam_error").count("cam_heatmap") == 0

    assert focam.compute_cam(photos, classifier).counts.new == 0
    Path(paths[4]).write_bytes(content)
    run = focam.compute_cam(photos, classifier, retry_failed=True)
    assert run.counts == Counts(samples=12, computed=11, failed=1, new=2)
    assert photos.match(F("filepath") == paths[4]).first().cam_error is None


def test_outside_the_crop_there_is_no_heat(dataset, tmp_path):
    crop = Preprocessing((Resize(short=64), CenterCrop((64, 64))), mean=(0.0,) * 3, std=(1.0,) * 3)
    classifier = focam.load_classifier(Brightness(16), ["light", "dark"], preprocessing=crop)
    dataset.add_samples([fo.Sample(filepath=p) for p in write_photos(tmp_path, 2, (60, 180))])
    focam.compute_cam(dataset, classifier)
    for heat in dataset.values("cam_heatmap"):
        assert heat.map.shape == (69, 208)
        assert heat.map[:, 70:138].any()
        assert not heat.map[:, :69].any()
        assert not heat.map[:, 139:].any()
        assert heat.cam.seen == pytest.approx([1 / 3, 0, 1 / 3, 1])


def test_a_run_is_all_that_is_needed_to_repeat_it(photos, classifier):
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    record = focam.load_run(photos, "cam").record
    json.dumps(to_plain(record))
    described = record.classifier
    assert described.sha256 == classifier.fingerprint
    assert described.classes == NAMES
    assert Preprocessing.from_dict(described.preprocessing) == SQUARE
    assert described.head["features"] == 16
    assert record.settings == Settings(ground_truth="ground_truth", class_map=None, precision="float32", top_k=1)
    assert record.versions["torch"] == importlib.metadata.version("torch")
    assert photos.get_run_info("cam").config.method == "fiftyone_cam"


def test_progress_reaches_the_end(photos, classifier):
    seen = []
    focam.compute_cam(photos, classifier, progress=lambda bar: seen.append((bar.iteration, bar.total)))
    assert seen[-1][0] == seen[-1][1] == 12


def test_what_was_computed_before_an_interruption_is_kept(photos, classifier):
    def stop(bar):
        if bar.iteration == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        focam.compute_cam(photos, classifier, batch_size=4, engine=focam.Local(num_workers=1), progress=stop)
    run = focam.load_run(photos, "cam")
    assert run.record.status == "interrupted"
    assert not run.complete
    done = photos.count("cam_heatmap")
    assert 0 < done < 12
    run = focam.compute_cam(photos, classifier)
    assert run.complete
    assert run.counts.new == 12 - done
    assert run.counts.computed == 12


def test_labels_that_a_database_could_stumble_over(photos):
    names = ["St. Bernard", "$set", "<script>alert(1)</script>\n" + "x" * 10_000]
    words = dict(zip(names, ["a.b", "$inc", "a.b"], strict=True))
    photos.set_values("truth", [fo.Classification(label=["a.b", "$inc"][i % 2]) for i in range(12)])
    classifier = focam.load_classifier(tiny_gap(), names, preprocessing=SQUARE)
    focam.compute_cam(photos, classifier, ground_truth="truth", class_map=words)
    record = focam.load_run(photos, "cam").record
    assert record.classifier.classes == names
    assert record.settings.class_map == words
    assert set(photos.distinct("cam_prediction.label")) <= set(names)
    assert focam.compute_cam(photos, classifier, ground_truth="truth", class_map=words).counts.new == 0


def test_the_time_is_told_by_what_it_was_spent_on(photos, classifier):
    run = focam.compute_cam(photos, classifier, batch_size=4)
    timing = run.record.timing
    assert timing.images == run.counts.computed
    assert 0 < timing.forward + timing.maps + timing.waiting_for_decode <= timing.seconds
    for stage in ("forward", "maps", "decoding", "writing"):
        assert getattr(timing, stage) > 0, stage
    assert "forward" in str(run)
