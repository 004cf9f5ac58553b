"""Figures: what stands in them, nothing overlaps or is cut off, and matplotlib's global state is left alone."""

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from jaxclear import crystals, drawing, palettes, plot
from jaxclear.clear import palette_rgb


@pytest.fixture(scope="module")
def found():
    return crystals.explain([bulk("Cu"), bulk("Fe")])


def boxes(figure):
    """The extents of all visible text, by words."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]


def assert_legible(figure):
    width, height = figure.get_size_inches() * figure.dpi
    placed = boxes(figure)
    assert placed
    for words, box in placed:
        assert box.x0 >= 0, words
        assert box.y0 >= 0, words
        assert box.x1 <= width, words
        assert box.y1 <= height, words
    for i, (words, box) in enumerate(placed):
        for others, other in placed[i + 1 :]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
            assert apart, f"{words!r} overlaps {others!r}"


def words_of(figure):
    return [words for words, _ in boxes(figure)]


def test_a_crystal_is_shown_with_its_class_and_key(found, tmp_path):
    figure = plot.crystal_figure(found, 0)
    assert_legible(figure)
    words = words_of(figure)
    assert "Cu: fcc (> 99.9 %)" in words
    assert set(found.class_names) <= set(words)
    assert plot.READING in words
    plot.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.format == "PNG"


def test_gallery_marks_what_is_wrong(found):
    missing = [found.clusters[0].positions[:5]] * 2
    figure = plot.crystal_gallery(
        found, found, titles=["Cu", "Fe"], true_classes=np.array([4, 3]), damage="nothing", missing=missing
    )
    assert_legible(figure)
    words = words_of(figure)
    assert sum("wrong" in text for text in words) == 2
    assert "structure" in words
    assert set(found.class_names) <= set(words)


@pytest.mark.parametrize("shape", [(12, 12, 1), (10, 30, 3), (30, 10, 3)])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_an_image_is_shown_with_its_maps(shape, count):
    image = np.random.default_rng(0).random(shape, np.float32)
    probabilities = np.full(count, 1 / count)
    figure = plot.image_figure(
        image,
        [("CLEAR map", np.zeros((*shape[:2], 3))), ("overlay", np.ones((*shape[:2], 3)))],
        title="an image",
        class_names=tuple(f"class {k}" for k in range(count)),
        probabilities=probabilities,
        shares=probabilities,
    )
    assert_legible(figure)
    assert sum(words.startswith("class ") for words in words_of(figure)) == min(count, 12)


def test_atoms_are_drawn_for_any_cluster(found):
    figure = drawing.new_figure(2, 2)
    single = found.clusters[0]._replace(
        positions=np.zeros((1, 3)), numbers=np.array([26]), occupancies=np.ones(1), cell=np.eye(3)
    )
    large = crystals.cluster(crystals.read(bulk("Cu"))[0], min_atoms=2000)
    for crystal in (single, large):
        axis = figure.add_subplot()
        drawing.draw_atoms(axis, crystal)
        FigureCanvasAgg(figure).draw()
        assert np.all(np.isfinite([axis.get_xlim(), axis.get_ylim()]))


def test_shares_of_the_response():
    classes = np.array([[0, 2], [-1, 2]])
    responses = np.array([[1.0, 2.0], [-5.0, 1.0]])
    shares = drawing.class_shares(classes, responses, 3)
    np.testing.assert_allclose(shares, [0.25, 0, 0.75])
    assert drawing.shares_text(shares, ("a", "b", "c")) == "c 75 %, a 25 %"
    nothing = drawing.class_shares(np.full((2, 2), -1), np.zeros((2, 2)), 3)
    assert drawing.shares_text(nothing, ("a", "b", "c")) == "no class responds"


@pytest.mark.parametrize("count", [1, 2, 7, 10, 20])
def test_class_colours_are_bright_and_keep_their_hue(count):
    colours = palettes.legible(count)
    plain = palette_rgb(None, count)
    assert np.all((colours >= plain - 1e-6) & (colours <= 1))
    assert np.all(colours @ [0.2126, 0.7152, 0.0722] >= 0.34 - 1e-6)
    np.testing.assert_array_equal(colours.argmax(1), plain.argmax(1))


def test_figures_leave_pyplot_alone():
    code = (
        "import sys, numpy as np\n"
        "from jaxclear import plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot.image_figure(np.ones((4, 4, 1)), [], title='t', class_names=('a',), probabilities=np.ones(1),"
        " shares=np.ones(1))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
