"""FiftyOne's own evaluation of a run's predictions, for its Model Evaluation panel."""

from __future__ import annotations

import logging

from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs.cam_run import CamRun

logger = logging.getLogger(__name__)


def register_evaluation(run: CamRun, truth: GroundTruth) -> None:
    """Register the evaluation ``{key}_eval`` of a run, in place of an earlier one of the run.

    It counts all samples of the dataset that have a prediction and a true label that a class can match, so its
    accuracy is the run's. Where there is a class map, a view of the predictions has the ground truth's words: the
    predictions themselves stay as they are. An evaluation or field of that name that is not the run's is left alone.

    Args:
        run: the run.
        truth: the ground truth, with a field.

    >>> register_evaluation(run, truth)
    >>> dataset.load_evaluation_results("cam_eval").metrics()["accuracy"] == run.record.accuracy
    True
    """
    dataset, key = run.dataset, run.evaluation
    if run.frames:
        return  # the panel evaluates samples
    if not run.record.evaluated and (dataset.has_evaluation(key) or dataset.has_sample_field(key)):
        logger.warning("no evaluation of run %r is registered: %r exists already", run.key, key)
        return
    path = run.field(PREDICTION)
    run.clear_evaluation()
    samples = dataset.select_group_slices(media_type="image") if dataset.media_type == "group" else dataset.view()
    found = [label for label in samples.distinct(f"{truth.field}.label") if truth.indices(label)]
    view = samples.exists(path).match({f"{truth.field}.label": {"$in": found}})  # an expression would read $ in labels
    if not found or not view:
        return
    words = {label: truth.translate(label) for label in dataset.distinct(f"{path}.label")}
    if renamed := {label: word for label, word in words.items() if word not in (None, label)}:
        if any(text.startswith("$") for pair in renamed.items() for text in pair):
            logger.warning("no evaluation of run %r is registered: FiftyOne cannot rename labels with a $", run.key)
            return
        view = view.map_labels(path, renamed)  # of what is predicted only: the stage is kept with the evaluation
    run.update(evaluated=True)  # before it is made, so that deleting the run deletes it in any case
    view.evaluate_classifications(path, gt_field=truth.field, eval_key=key, progress=False)
