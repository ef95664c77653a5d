"""Tables as text."""

from crfrnn.files.table import Table

TABLE = Table(("", "no CRF", "gain"), [["mean IoU", "52.36", "+1.5"], ["all", "7.00", "-0.25"]])


def test_columns_are_aligned():
    assert str(TABLE).splitlines() == [
        "          no CRF   gain",
        "mean IoU   52.36   +1.5",
        "all         7.00  -0.25",
    ]
    assert TABLE.widths == [8, 6, 5]
    assert TABLE.least_widths == [8, 5, 5]


def test_cells_can_be_changed():
    assert TABLE.mapped(str.upper).rows[0] == ["MEAN IOU", "52.36", "+1.5"]
    assert TABLE.mapped(str.upper).header == ["", "NO CRF", "GAIN"]
