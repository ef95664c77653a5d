"""Letters that Pillow's own font lacks: another font, or one warning."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import crfrnn
from crfrnn.files import lettering
from crfrnn.files.legend import Key, draw_legend
from crfrnn.files.lettering import font_for, warn_of_missing_letters
from crfrnn.files.sheet import captioned

COLOURS = np.zeros((1, 3), np.uint8)
PHOTO, LABELS = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), int)


def drawn(font, text: str) -> bytes:
    image = Image.new("L", (300, 40))
    ImageDraw.Draw(image).text((5, 5), text, 255, font)
    return image.tobytes()


@pytest.fixture
def no_fonts(monkeypatch) -> None:
    monkeypatch.setattr(lettering, "FONT_FILES", ("none.ttf",))
    monkeypatch.setattr(lettering, "_font_of_matplotlib", lambda: "none.ttf")


@pytest.fixture
def dejavu(monkeypatch) -> str:
    matplotlib = pytest.importorskip("matplotlib", reason="needs the plots extra")
    monkeypatch.setattr(lettering, "FONT_FILES", ())
    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["café", "кошка", "θ_β 3", "cafe\u0301"])
def test_a_font_that_has_the_letters_is_taken(dejavu, text) -> None:
    whole = lettering.shown_text(text)
    assert drawn(font_for(whole, 20), whole) == drawn(ImageFont.truetype(dejavu, 20), whole)
    boxes = "".join("\uffff" if letter > "\x7f" else letter for letter in whole)
    assert drawn(font_for(whole, 20), whole) != drawn(font_for(whole, 20), boxes)
    crfrnn.compare(PHOTO, LABELS, LABELS, classes=[text], titles=(text, "b"))
    for picture in (draw_legend(Key((text,), COLOURS), 90), captioned(Image.new("RGB", (9, 9)), whole, 20)):
        lacking = draw_legend(Key((boxes,), COLOURS), 90) if picture.height == 32 else None
        assert lacking is None or picture.tobytes() != lacking.tobytes()


def test_pillows_font_is_kept_where_it_has_all() -> None:
    assert drawn(font_for("potted plant…", 20), "potted plant…") == drawn(ImageFont.load_default(20), "potted plant…")


@pytest.mark.parametrize(("names", "facts"), [
    (["背景", "猫"], ["背 (U+80CC), 景 (U+666F), 猫 (U+732B)", "Noto Sans CJK"]),
    (["café", "θ_β"], ["é (U+00E9), θ (U+03B8), β (U+03B2)", "DejaVu Sans"]),
    (["a\ud800", "\x1b"], ["(U+D800)"]),
])  # fmt: skip
def test_one_warning_names_the_letters(no_fonts, names, facts) -> None:
    labels = np.array([[0, 1]])
    for draw in (
        lambda: crfrnn.overlay(PHOTO[:1, :2], labels, classes=names),
        lambda: crfrnn.compare(PHOTO[:1, :2], labels, labels, classes=names, titles=(names[0], names[1])),
    ):
        with pytest.warns(crfrnn.InputWarning) as told:
            draw()
        assert len(told) == 1
        for fact in facts:
            assert fact in str(told[0].message)


def test_letters_that_all_have_are_not_told(no_fonts, recwarn) -> None:
    warn_of_missing_letters(["traffic light", "potted plant…", ""])
    assert not recwarn
