"""Sources of other libraries, arrays, subsets and gathering."""

from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxclear.data import (
    DataError,
    ImageSource,
    Prepared,
    Subset,
    as_source,
    gather,
    holdout,
    labels_of,
    load,
    unit_range,
)
from jaxclear.dataset import sources
from jaxclear.dataset.sources import Failure

IMAGES = np.random.default_rng(3).integers(0, 256, (5, 6, 7, 3), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0])


class Rows(list):
    """What a Hugging Face data set is here: a sequence of mappings."""


def pillow_rows():
    return Rows(
        {"img": Image.fromarray(image), "digit": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)
    )


SOURCES = {
    "arrays": lambda: as_source((IMAGES, LABELS)),
    "columns": lambda: as_source({"image": IMAGES, "label": LABELS, "more": [None]}),
    "pairs": lambda: as_source(list(zip(IMAGES, LABELS.tolist(), strict=True))),
    "hugging face": lambda: as_source(pillow_rows(), image="img", label="digit"),
    "tfds-style": lambda: as_source(
        Rows(
            {"image": i, "label": np.int64(k), "id": str(n).encode()}
            for n, (i, k) in enumerate(zip(IMAGES, LABELS, strict=True))
        )
    ),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_gives_the_same_items(source):
    built = source()
    assert isinstance(built, ImageSource)
    assert isinstance(built, sources.Source)
    items = list(built)
    np.testing.assert_array_equal([item["image"] for item in items], IMAGES)
    assert [item["label"] for item in items] == LABELS.tolist()
    assert all(type(item["label"]) is int and item["image"].dtype == np.uint8 for item in items)
    assert [item["id"] for item in items] == list("01234")
    np.testing.assert_array_equal(built[-1]["image"], IMAGES[-1])
    np.testing.assert_array_equal(labels_of(built), LABELS)
    seen = []
    images = gather(built, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(images.images, IMAGES)
    assert seen == [(number, 5) for number in range(1, 6)]
    assert images.labels.dtype == np.int32
    read = sources.read(built, 3)
    assert not isinstance(read, Failure)
    np.testing.assert_array_equal(read.value, IMAGES[3])


FOREIGN = {
    "arrays": lambda: (IMAGES, LABELS),
    "columns": lambda: {"image": IMAGES, "label": LABELS},
    "pairs": lambda: list(zip(IMAGES, LABELS.tolist(), strict=True)),
    "a tuple of pairs": lambda: tuple(zip(IMAGES, LABELS.tolist(), strict=True)),
    "rows": lambda: Rows({"image": i, "label": np.int64(k)} for i, k in zip(IMAGES, LABELS, strict=True)),
    "pillow rows": lambda: Rows({"image": row["img"], "label": row["digit"]} for row in pillow_rows()),
    "items": lambda: sources.ArraySource(IMAGES, LABELS),
}


@pytest.mark.parametrize("source", FOREIGN.values(), ids=FOREIGN)
def test_what_takes_a_source_takes_foreign_ones_as_they_are(source):
    np.testing.assert_array_equal(gather(source()).images, IMAGES)
    np.testing.assert_array_equal(gather(source()).labels, LABELS)
    np.testing.assert_array_equal(labels_of(source()), LABELS)
    split = holdout(source(), 0.4)
    assert sorted([*split.train.indices, *split.test.indices]) == list(range(5))
    np.testing.assert_array_equal(gather(split.test).images, IMAGES[split.test.indices])
    np.testing.assert_array_equal(labels_of(split.train), LABELS[split.train.indices])
    np.testing.assert_array_equal(gather(Subset(source(), [3, 1])).labels, LABELS[[3, 1]])


def test_foreign_sources_are_prepared_too():
    for source in (FOREIGN["arrays"](), FOREIGN["pairs"](), FOREIGN["pillow rows"]()):
        np.testing.assert_array_equal(gather(Prepared(source, lambda image: 255 - image)).images, 255 - IMAGES)


def test_grey_images_have_an_axis_of_channels_whatever_held_them():
    grey = IMAGES[..., 0]
    rows = [{"image": Image.fromarray(image), "label": 1} for image in grey]
    for source in (rows, (grey, LABELS), list(zip(grey, LABELS, strict=True)), [{"image": grey[0], "label": 1}] * 2):
        images = gather(source).images
        assert images.shape[1:] == (6, 7, 1)
        np.testing.assert_array_equal(images[0, ..., 0], grey[0])


def test_foreign_sources_that_cannot_be_read_say_what_to_do():
    for function in (gather, labels_of, lambda rows: gather(holdout(rows, 0.4).train)):
        with pytest.raises(
            DataError, match=r"expected \['image', 'label'\] in it, got \['digit', 'img'\]; name the keys"
        ):
            function(pillow_rows())
    for function in (gather, labels_of, lambda source: holdout(source, 0.4), lambda source: Subset(source, [0])):
        with pytest.raises(DataError, match="expected columns of one length"):
            function((IMAGES, LABELS[:2]))
        with pytest.raises(DataError, match="expected a source with __len__"):
            function(iter([]))
    with pytest.raises(DataError, match="item 0: expected a label, got none"):
        labels_of(sources.ArraySource(IMAGES))


def test_explaining_a_data_set_knows_one_source_from_another():
    ours, other = as_source((IMAGES, LABELS)), as_source((IMAGES[::-1], LABELS))
    assert sources.identity(ours) != sources.identity(other)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "RGB"])
def test_pillow_images_of_any_8_bit_mode(mode):
    picture = Image.fromarray(IMAGES[0]).convert(mode)
    item = as_source([(picture, 0)])[0]["image"]
    grey = mode in ("L", "1")
    assert item.shape == (6, 7, 1 if grey else 3)
    np.testing.assert_array_equal(item.squeeze(), np.asarray(picture.convert("L" if grey else "RGB")))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((IMAGES[0] / 255, 0), "item 0: expected uint8, got float64"),
        ((IMAGES[0].transpose(2, 0, 1), 0), r"expected the shape .* got \(3, 6, 7\)"),
        ((IMAGES, 0), "expected the shape"),
        ((Image.fromarray(np.zeros((3, 3), np.uint16)), 0), "expected 8 bits a channel, got an image of mode I;16"),
        ((IMAGES[0], 0.5), "expected its label as a whole number, got 0.5"),
        ((IMAGES[0], "seven"), "expected its label"),
        ({"img": IMAGES[0], "label": 1}, r"expected \['image'\] in it"),
        (IMAGES[0], "expected a mapping or a pair"),
    ],
)
def test_bad_items_are_refused_by_number(row, reason):
    with pytest.raises(DataError, match=reason):
        as_source([row])[0]


def test_bad_sources_are_refused():
    with pytest.raises(DataError, match="expected a source with __len__"):
        as_source(iter([]))
    with pytest.raises(DataError, match="columns of one length"):
        as_source((IMAGES, LABELS[:2]))
    with pytest.raises(DataError, match=r"expected the columns \['image', 'label'\], got \['train'\]"):
        as_source({"train": pillow_rows()})
    with pytest.raises(IndexError):
        as_source((IMAGES, LABELS))[5]


def test_gathering_names_what_cannot_be_read():
    rows = [(IMAGES[0], 1), (IMAGES[1] / 255, 0), (IMAGES[2], 2)]
    with pytest.raises(DataError, match="item 1 cannot be used: DataError: item 1: expected uint8"):
        gather(as_source(rows))
    images = gather(as_source(rows), on_error="record")
    assert images.labels.tolist() == [1, 2]
    assert images.ids == ("0", "2")
    assert [failure.id for failure in images.failures] == ["1"]
    with pytest.raises(DataError, match="got none of 1 items"):
        gather(as_source(rows[1:2]), on_error="record")
    with pytest.raises(DataError, match="of one shape"):
        gather(as_source([(IMAGES[0], 1), (IMAGES[0, :4], 1)]))
    with pytest.raises(DataError, match="on_error"):
        gather(as_source(rows), on_error="skip")


def test_preparing_applies_the_function_to_the_image_alone():
    source = as_source((IMAGES, LABELS))
    prepared = Prepared(source, lambda image: np.asarray(unit_range(image)))
    np.testing.assert_allclose(prepared[2]["image"], IMAGES[2] / 255, rtol=1e-6)
    assert (prepared[2]["label"], prepared[2]["id"]) == (1, "2")
    assert gather(prepared).images.dtype == np.float32
    np.testing.assert_array_equal(labels_of(prepared), LABELS)
    with pytest.raises(DataError, match="expected uint8 images"):
        unit_range(prepared[2]["image"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.floats(0.05, 0.95), st.integers(0, 99))
def test_a_holdout_keeps_groups_together_and_loses_nothing(keys, share, seed):
    source = as_source((np.zeros((len(keys), 2, 2), np.uint8), np.arange(len(keys))))
    try:
        train, test = holdout(source, share, seed=seed, groups=keys)
    except DataError:
        counts = Counter(keys)
        # Only where one part would be empty.
        assert len(counts) == 1 or round(share * len(keys)) < 1 or max(counts.values()) >= len(keys) * (1 - share) - 1
        return
    assert sorted([*labels_of(train), *labels_of(test)]) == list(range(len(keys)))
    assert not {keys[i] for i in train.indices} & {keys[i] for i in test.indices}
    assert round(share * len(keys)) <= len(test) < round(share * len(keys)) + max(Counter(keys).values())
    again = holdout(source, share, seed=seed, groups=keys)
    np.testing.assert_array_equal(again.test.indices, test.indices)


def test_subsets_check_their_indices():
    source = as_source((IMAGES, LABELS))
    subset = Subset(source, [3, 0])
    assert [item["id"] for item in subset] == ["3", "0"]
    assert subset.name(0) == "3"
    for indices in ([5], [-1], [[0]]):
        with pytest.raises(DataError, match="expected indices from 0 to 4"):
            Subset(source, indices)
    with pytest.raises(DataError, match="expected 5 groups"):
        holdout(source, 0.5, groups=[1])
    with pytest.raises(DataError, match="expected a share"):
        holdout(source, 1.0)


def test_load_says_what_it_expects(tmp_path):
    with pytest.raises(DataError, match=r"one of mnist, svhn_cropped, which are prepared here, got 'cifar10'"):
        load("cifar10", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="expected no options for 'mnist', got size"):
        load("mnist", "train", data_dir=tmp_path, size=3)
    with pytest.raises(DataError, match="publisher's folder of 'lidc' as data_dir"):
        load("lidc", "all")
    with pytest.raises(DataError, match="out of train, test, all"):
        load("imageclef", "validation", data_dir=tmp_path)


def test_a_source_of_tfds_itself(tmp_path):
    from jaxclear.data.builders import Mnist

    class Tiny(Mnist, skip_registration=True):
        name = "tiny"

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._made()}

        def _made(self):
            from jaxclear.data.builders import _png

            for number in range(4):
                yield number, {"image": _png(np.full((28, 28, 1), number, np.uint8)), "label": number}

    builder = Tiny(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    own = tfds.data_source("tiny", data_dir=tmp_path, split="train")
    images = gather(as_source(own))
    assert sorted(images.labels) == [0, 1, 2, 3]
    assert (images.images == images.labels[:, None, None, None]).all()
    np.testing.assert_array_equal(gather(load("tiny", "train", data_dir=tmp_path)).images, images.images)
