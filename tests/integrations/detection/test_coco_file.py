"""COCO files that would train or evaluate wrongly: refused or mended, for the data set and for the metric."""

import json

import pytest

pytest.importorskip("mmdet")

import torch  # noqa: E402
from mmdet.registry import DATASETS, METRICS  # noqa: E402

from rebnn_mm.integrations.detection import datasets as detection  # noqa: E402

CLASSES = ("disc", "square")


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(detection, "print_log", lambda message, **kwargs: said.append(message))
    return said


def content(first_id=1):
    """Three images with two boxes each."""
    images = [dict(id=i, file_name=f"{i}.jpg", width=100, height=80) for i in (1, 2, 3)]
    boxes = [(image, label) for image in (1, 2, 3) for label in (5, 6)]
    annotations = [
        dict(id=first_id + n, image_id=image, category_id=label, bbox=[10 * n, 10, 30, 20], area=600, iscrowd=0)
        for n, (image, label) in enumerate(boxes)
    ]
    return dict(images=images, annotations=annotations, categories=[dict(id=5, name="disc"), dict(id=6, name="square")])


@pytest.fixture
def build(tmp_path):
    def data_set(data, **options):
        (tmp_path / "ann.json").write_text(json.dumps(data))
        config = dict(
            type="CheckedCocoDataset",
            _scope_="mmdet",
            data_root=f"{tmp_path}/",
            ann_file="ann.json",
            data_prefix=dict(img="images/"),
            metainfo=dict(classes=CLASSES),
            pipeline=[dict(type="LoadCheckedImage"), dict(type="LoadAnnotations", with_bbox=True)],
        )
        return DATASETS.build({**config, **options})

    return data_set


@pytest.fixture
def metric(tmp_path):
    def checked(data=None, **options):
        if data is not None:
            (tmp_path / "ann.json").write_text(json.dumps(data))
        return METRICS.build(
            dict(type="CheckedCocoMetric", _scope_="mmdet", ann_file=f"{tmp_path}/ann.json", **options)
        )

    return checked


def evaluate_truth(dataset, metric):
    """AP@0.5 of detections that are the ground truth."""
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        boxes = torch.tensor([i["bbox"] for i in info["instances"]], dtype=torch.float)
        labels = torch.tensor([i["bbox_label"] for i in info["instances"]])
        pred = dict(bboxes=boxes, scores=torch.ones(len(boxes)), labels=labels)
        metric.process({}, [dict(img_id=info["img_id"], ori_shape=(80, 100), pred_instances=pred)])
    return metric.evaluate(len(dataset))["coco/bbox_mAP_50"]


def for_each(key, value=None):
    def change(data):
        for annotation in data["annotations"]:
            if value is None:
                del annotation[key]
            else:
                annotation[key] = value

    return change


def ids_from_0(data):
    data["annotations"] = content(first_id=0)["annotations"]


def ids_as_text(data):
    for annotation in data["annotations"]:
        annotation["id"] = f"n{annotation['id']}"


def group_first(data):
    data["categories"].insert(0, dict(id=0, name="disc", supercategory="none"))


def group_last(data):
    data["categories"].append(dict(id=9, name="square"))


def another_name(data):
    data["categories"].insert(0, dict(id=0, name="shapes"))


def more_annotations_than_images(data):
    del data["images"][2]


MENDED = {
    "no iscrowd": (for_each("iscrowd"), "6 annotation(s) have no iscrowd"),
    "no area": (for_each("area"), "6 annotation(s) have no area or area 0; taken from their boxes"),
    "area 0": (for_each("area", 0), "6 annotation(s) have no area or area 0; taken from their boxes"),
    "ids from 0": (ids_from_0, "1 annotation id(s) below 1 or no whole number"),
    "ids as text": (ids_as_text, "6 annotation id(s) below 1 or no whole number"),
    "unused group": (group_first, "unused category 'disc' (id 0) repeats a name and is left out"),
    "unused group at the end": (group_last, "unused category 'square' (id 9) repeats a name and is left out"),
    "unused other name": (another_name, None),
    "fewer images": (more_annotations_than_images, "2 annotation(s) of images that it does not list are left out"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "said"), MENDED.values(), ids=MENDED)
def test_mended_files_train_all_boxes_and_read_perfect_detections_as_1(build, metric, warnings, change, said):
    data = content()
    change(data)
    train = build(data)
    assert [len(train.get_data_info(i)["instances"]) for i in range(len(train))] == [2] * len(data["images"])
    assert [i["bbox_label"] for i in train.get_data_info(0)["instances"]] == [0, 1]
    assert [w for w in warnings if said and said in w] == warnings[: bool(said)] and len(warnings) == bool(said)
    assert evaluate_truth(build(data, test_mode=True), metric()) == pytest.approx(1)


@pytest.mark.slow
def test_a_good_file_is_read_as_it_is(build, metric, warnings):
    assert evaluate_truth(build(content(), test_mode=True), metric()) == pytest.approx(1) and warnings == []


def twice(kind, key, value):
    def change(data):
        data[kind][0][key] = data[kind][1][key] = value

    return change


def two_used(data):
    data["categories"].append(dict(id=7, name="disc"))
    data["annotations"][0]["category_id"] = 7


def texts(data):
    for image in data["images"]:
        image["id"] = str(image["id"])


REFUSED = {
    "annotation ids": (twice("annotations", "id", 4), r"annotation id\(s\) occur more than once \(4\)"),
    "image ids": (twice("images", "id", 1), r"1 image id\(s\) occur more than once \(1\)"),
    "category ids": (twice("categories", "id", 5), r"1 category id\(s\) occur more than once \(5\)"),
    "picture": (twice("images", "file_name", "x.jpg"), r"lists 1 picture\(s\) more than once.*x.jpg"),
    "no id": (for_each("id"), r"a\(n\) annotation has no usable id"),
    "no image_id": (for_each("image_id"), "an annotation is incomplete: it has no 'image_id'"),
    "no category": (for_each("category_id"), "an annotation is incomplete: it has no 'category_id'"),
    "ids of another type": (texts, r"not one of its 6 annotations belongs to an image: image_id is 1, .*'1'"),
    "two classes of a name": (two_used, r"several categories named \['disc'\] \(ids \[5, 7\]\), all with boxes"),
    "size": (twice("images", "width", 0), r"the size of 1.jpg is 0 x 80"),
    "no size": (twice("images", "height", None), r"the size of 1.jpg is 100 x None"),
    "no number": (for_each("bbox", [float("nan"), 1, 9, 9]), r"annotation 1 has a box \[nan, 1, 9, 9\]"),
    "box of texts": (for_each("bbox", ["1", "1", "9", "9"]), r"annotation 1 has a box \['1'.*four finite numbers"),
    "no box at all": (for_each("bbox", 5), "annotation 1 has a box 5, and a box is four finite numbers"),
    "box of three": (for_each("bbox", [1, 1, 9]), r"annotation 1 has a box \[1, 1, 9\], and a box is four"),
    "crowd as text": (for_each("iscrowd", "0"), "ann.json: annotation 1 has iscrowd '0': write 0 or 1, as a number"),
    "crowd of two": (for_each("iscrowd", 2), "annotation 1 has iscrowd 2: write 0 or 1"),
    "crowd as list": (for_each("iscrowd", [0]), r"annotation 1 has iscrowd \[0\]: write 0 or 1"),
    "ignore as text": (for_each("ignore", "0"), "annotation 1 has ignore '0': write 0 or 1"),
    "ids as lists": (for_each("id", [1]), r"ann.json: annotation no. 1 of the file has id \[1\]: an id is one number"),
    "image as list": (for_each("image_id", [1]), r"ann.json: annotation 1 has image_id \[1\]: an id is one number"),
    "category as object": (for_each("category_id", dict(id=5)), r"annotation 1 has category_id {'id': 5}: an id is"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("test_mode", [False, True])
def test_refused_before_training(build, change, reason, test_mode):
    data = content()
    change(data)
    with pytest.raises(ValueError, match=f"{reason}"):
        build(data, test_mode=test_mode)


@pytest.mark.parametrize("filter_cfg", [None, dict(filter_empty_gt=True, min_size=32)])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (for_each("iscrowd", 1), "leaves no box to train on: all 6 are difficult, crowd"),
        (for_each("bbox", [5, 5, 0.4, 9]), "leaves no"),
        (for_each("bbox", [0.1, 0.1, 0.5, 0.5]), "leaves no"),  # shares instead of pixels
        (lambda data: data.update(annotations=[]), "leaves no"),
    ],
)
def test_no_box_left_is_refused(build, metric, filter_cfg, change, reason):
    data = content()
    change(data)
    with pytest.raises(ValueError, match=f"ann.json.* {reason}|{reason}.*ann.json"):
        build(data, filter_cfg=filter_cfg)


def test_a_metric_without_boxes_is_refused_unless_it_only_writes(metric, tmp_path):
    data = dict(content(), annotations=[])
    with pytest.raises(ValueError, match="ann.json has no box to evaluate"):
        metric(data)
    metric(data, format_only=True, outfile_prefix=str(tmp_path / "out"))


@pytest.mark.slow
def test_images_of_a_challenge_can_be_tested(build):
    data = content()
    del data["annotations"]
    assert len(build(data, test_mode=True)) == 3


@pytest.mark.slow
def test_images_whose_boxes_were_dropped_are_empty_to_the_filter(build):
    data = content()
    for annotation in data["annotations"][:2]:
        annotation["bbox"] = [500, 500, 20, 20]
    assert len(build(data, filter_cfg=dict(filter_empty_gt=True))) == 2
    assert len(build(data)) == 3


@pytest.mark.slow
def test_a_class_without_boxes_is_said(build, warnings):
    data = content()
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 5]
    build(data)
    assert "no box to train on of 1 class(es), which cannot be learnt from it: ['square']" in warnings[0]


def test_masks_need_segmentations(build, metric):
    masks = [dict(type="LoadCheckedImage"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
    data = content()
    data["annotations"][1]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    with pytest.raises(ValueError, match=r"5 of 6 annotations have no segmentation \(ids 1, 3, 4 ...\)"):
        build(data, pipeline=masks)
    with pytest.raises(ValueError, match="5 of 6 annotations have no segmentation"):
        metric(data, metric=["bbox", "segm"])


def test_the_metric_refuses_what_is_not_its_data_set(build, metric):
    dataset = build(content(), test_mode=True)
    other = metric(dict(content(), categories=[dict(id=6, name="square"), dict(id=5, name="disc")]))
    with pytest.raises(ValueError, match="orders its categories"):
        other.dataset_meta = dataset.metainfo
    fewer = content()
    del fewer["images"][0]
    few = metric(fewer)
    with pytest.raises(ValueError, match="has no image 1, which was tested: set the evaluator's ann_file"):
        evaluate_truth(dataset, few)
    with pytest.raises(FileNotFoundError, match="annotation file of the COCO metric is not at"):
        METRICS.build(dict(type="CheckedCocoMetric", _scope_="mmdet", ann_file="nowhere.json"))


def test_a_metric_without_a_file_takes_the_data_sets_boxes():
    assert METRICS.build(dict(type="CheckedCocoMetric", _scope_="mmdet"))._coco_api is None
