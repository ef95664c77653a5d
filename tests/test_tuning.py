"""`crfrnn tune` on data where the truth is known: scores that a CRF must improve, and perfect ones that it cannot."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import CRFParameters
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.files.classes import named_classes
from crfrnn.files.resize import resize_scores
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the tune extra")
pytest.importorskip("torchmetrics", reason="needs the tune extra")
pytest.importorskip("optuna", reason="needs the tune extra")
from crfrnn import tuning  # noqa: E402
from crfrnn.cli import main  # noqa: E402
from crfrnn.tuning import Gain, Tuning, descent, measure, searched_fields, split_photos, tune  # noqa: E402
from crfrnn.tuning.search import scaled  # noqa: E402

pytestmark = pytest.mark.torch

START = CRFParameters(theta_alpha=6, theta_beta=30, theta_gamma=1.5, spatial_weight=1, bilateral_weight=2, iterations=3)
SIZES = ((16, 22), (20, 15), (18, 18))
CLASSES = named_classes(("left", "right"))
COUNT = 8


def write_data(root: Path, rng, noise: float, count: int = COUNT) -> Path:
    """Photos of two colours, their labels with a void row, and logits: the truth under noise."""
    for name in ("images", "labels", "scores"):
        (root / name).mkdir(parents=True)
    names = [f"photo {index}" for index in range(count)]
    for index, name in enumerate(names):
        labels = np.zeros(SIZES[index % len(SIZES)], np.uint8)
        labels[:, rng.integers(5, 10) :] = 1
        photo = np.where(labels[..., None] == 1, [200, 60, 40], [40, 90, 180]) + rng.integers(
            -20, 21, (*labels.shape, 3)
        )
        logits = np.stack([labels == 0, labels == 1]) * 2.0 + noise * rng.normal(size=(2, *labels.shape))
        labels[0] = 255
        Image.fromarray(photo.astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(labels).save(root / "labels" / f"{name}.png")
        np.save(root / "scores" / f"{name}.npy", logits.astype(np.float32))
    (root / "val.txt").write_text("\n".join(names) + "\n")
    return root


def scored(root: Path, **options) -> ScoredPhotos:
    return ScoredPhotos(SegmentationData(root, "val", CLASSES), root / "scores", **options)


@pytest.fixture
def noisy(tmp_path: Path, rng) -> Path:
    return write_data(tmp_path / "noisy", rng, noise=2.0)


def mean_iou(photos: ScoredPhotos, indices: list[int], parameters: CRFParameters | None, edges: bool = False) -> float:
    """In plain NumPy, class by class."""
    truth, found = [], []
    for index in indices:
        sample, logits = photos[index]
        refined = logits if parameters is None else crfrnn.refine(logits, sample.image, parameters)
        known = sample.labels != 255
        if edges:
            around = np.lib.stride_tricks.sliding_window_view(np.pad(sample.labels, 5, mode="edge"), (11, 11))
            known &= (around != sample.labels[..., None, None]).any(axis=(2, 3))
        truth.append(sample.labels[known])
        found.append(refined.argmax(axis=0)[known])
    truth, found = np.concatenate(truth), np.concatenate(found)
    return float(np.mean([((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in (0, 1)]))


# The search.


def worth(photos: ScoredPhotos, indices: list[int], parameters: CRFParameters | None) -> float:
    return sum(mean_iou(photos, indices, parameters, edges) for edges in (False, True)) / 2


def test_a_crf_that_helps(noisy: Path):
    photos = scored(noisy)
    found = tune(photos, START, trials=12, seed=3)
    tuned_on, held_out = split_photos(COUNT, 0.5, 3)
    assert (found.tuned_on, found.held_out, found.trials) == (len(tuned_on), len(held_out), 12)
    assert found.finding == "helps"
    assert found.verdict().startswith("The CRF helps on this data. Points of mean IoU on 4 photos held out: +")
    assert found.mean_iou.interval[0] <= found.mean_iou.tuned - found.mean_iou.scores <= found.mean_iou.interval[1]
    assert found.searched[2] >= found.searched[1]
    candidates = None, START, found.parameters
    for edges, gain in ((False, found.mean_iou), (True, found.edge_mean_iou)):
        for measured, parameters in zip((gain.scores, gain.start, gain.tuned), candidates, strict=True):
            assert measured == pytest.approx(mean_iou(photos, held_out, parameters, edges), abs=1e-12)
    for measured, parameters in zip(found.searched, candidates, strict=True):
        fast = None if parameters is None else replace(parameters, class_threshold=0.01)
        assert measured == pytest.approx(worth(photos, tuned_on, fast), abs=1e-12)


@pytest.mark.parametrize("method", ["search", "gradient"])
def test_perfect_scores(tmp_path: Path, rng, method: str, monkeypatch):
    """No CRF is the best one, and refining with what was found changes nothing, and says why."""
    monkeypatch.setattr(descent, "STEPS", 4)
    photos = scored(write_data(tmp_path, rng, noise=0.0))
    found = tune(photos, START, method=method, trials=6)
    assert found.mean_iou.scores == found.mean_iou.tuned == 1
    assert found.finding == found.notes()["finding"] == "no CRF"
    assert found.verdict().startswith("No CRF: on the 4 photos tuned on, nothing that was tried was better")
    assert found.parameters == replace(START, spatial_weight=0, bilateral_weight=0)
    crfrnn.save_parameters(tmp_path / "found.json", found.parameters, found.notes())
    sample, logits = photos[0]
    with pytest.warns(crfrnn.InputWarning, match=r"found\.json: crfrnn tune did not find that this CRF helps\. No CRF"):
        refined = crfrnn.refine(logits, sample.image, tmp_path / "found.json")
    np.testing.assert_allclose(refined, np.exp(logits) / np.exp(logits).sum(axis=0), rtol=1e-6)


def test_a_file_that_helps_is_no_warning(tmp_path: Path, recwarn):
    for notes in ({"finding": "helps", "verdict": "…"}, {"source": "tried by hand"}, None):
        crfrnn.save_parameters(tmp_path / "found.json", START, notes)
        assert crfrnn.load_parameters(tmp_path / "found.json") == START
    assert not recwarn.list


def test_only_values_of_kernels_in_use_change(noisy: Path):
    start = replace(
        START, spatial_weight=0, bilateral_weight=(2, 3), theta_beta=(30, 20, 10), normalization="symmetric"
    )
    found = tune(scored(noisy), start, trials=4).parameters
    assert replace(found, **{name: getattr(start, name) for name in searched_fields(start)}) == start
    assert found.spatial_weight == 0
    assert found.theta_gamma == start.theta_gamma
    for name in ("bilateral_weight", "theta_beta"):
        factors = np.divide(getattr(found, name), getattr(start, name))
        np.testing.assert_allclose(factors, factors[0], rtol=1e-3)
        assert 1 / 5 <= factors[0] <= 5


def test_the_start_is_the_first_trial(noisy: Path):
    start = replace(START, theta_alpha=6.123456789)
    found = tune(scored(noisy), start, trials=1)
    assert found.parameters == start
    assert (found.trials, found.given_up) == (1, 0)
    assert found.mean_iou.start == found.mean_iou.tuned


def test_another_solver_stays(noisy: Path):
    """Also one that has no threshold for classes, which the search would use."""
    start = replace(START, solver="frank-wolfe", strength=0.7)
    found = tune(scored(noisy), start, trials=3).parameters
    assert found.crf.solver == start.crf.solver


# By gradients.


def test_the_soft_iou_of_sure_scores_is_the_iou(rng):
    labels = torch.from_numpy(rng.choice([0, 1, 2, 255], size=(6, 7)))
    found = torch.from_numpy(rng.integers(0, 4, size=(6, 7)))
    logits = 60.0 * torch.nn.functional.one_hot(found, 4).movedim(-1, 0)
    known = labels != 255
    ious = [
        ((found == c) & (labels == c)).sum() / (((found == c) | (labels == c)) & known).sum().double() for c in range(3)
    ]
    assert descent.soft_iou(logits, labels).item() == pytest.approx(float(torch.stack(ious).mean()), rel=1e-6)


def test_the_gradient_leads_from_a_wrong_start(noisy: Path):
    """Where the weights are too small; the result is measured as that of a search is."""
    start = replace(START, bilateral_weight=0.2, spatial_weight=0.1)
    photos = scored(noisy)
    found = tune(photos, start, method="gradient")
    tuned_on, held_out = split_photos(COUNT, 0.5, 0)
    assert found.searched[2] > found.searched[1] + 0.05
    assert found.parameters.bilateral_weight > 0.6
    assert (found.trials, found.given_up) == (5, 0)
    for measured, parameters in zip(found.searched, (None, start, found.parameters), strict=True):
        assert measured == pytest.approx(worth(photos, tuned_on, parameters), abs=1e-12)
    assert found.mean_iou.tuned == pytest.approx(mean_iou(photos, held_out, found.parameters), abs=1e-12)


def test_the_gradient_moves_every_number_of_kernels_in_use(noisy: Path, monkeypatch):
    monkeypatch.setattr(descent, "STEPS", 8)
    start = replace(START, spatial_weight=0, bilateral_weight=(-2, 3), theta_beta=(30, 20, 10), class_threshold=0.1)
    photos = scored(noisy)
    found = list(descent.descend(photos, [0, 1], start, searched_fields(start), seed=0))
    assert len(found) == descent.ROUNDS
    last = found[-1]
    assert replace(last, **{name: getattr(start, name) for name in searched_fields(start)}) == start
    factors = np.divide(last.theta_beta, start.theta_beta)
    assert len(set(factors)) == 3
    assert (factors > 0).all()
    assert last.bilateral_weight[0] < 0 < last.bilateral_weight[1]
    again = list(descent.descend(photos, [0, 1], start, searched_fields(start), seed=0))
    assert again == found


def test_the_gradient_at_the_command_line(noisy: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(descent, "STEPS", 4)
    command = ["tune", str(noisy), "--classes", "2", "-o", str(tmp_path / "found.json"), "--method", "gradient"]
    assert main(command) == 0
    assert "the best of 5 places on 4 photos" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["notes"]["method"] == "gradient"
    with pytest.raises(SystemExit):
        main([*command, "--trials", "3"])
    assert "--trials is for --method search" in capsys.readouterr().err
    with raises_saying(ValueError, "method='best'", "'search', 'gradient'"):
        tune(scored(noisy), method="best")


def test_bad_trials_are_given_up(noisy: Path):
    found = tune(scored(noisy), START, trials=20)
    assert 0 < found.given_up < 15
    assert found.trials == 20


def test_the_same_seed_finds_the_same(noisy: Path):
    """With any number of threads; another seed tunes on other photos."""
    photos = scored(noisy)
    first = tune(photos, START, trials=9, seed=1, threads=1)
    assert tune(photos, START, trials=9, seed=1, threads=3) == first
    assert tune(photos, START, trials=9, seed=2, threads=3) != first


def test_factors():
    start = CRFParameters(theta_beta=(3, 6), spatial_weight=((1, 0), (0, -2)))
    assert scaled(start, {"theta_beta": 1 / 3, "spatial_weight": 1.23456}) == replace(
        start, theta_beta=(1, 2), spatial_weight=((1.235, 0), (0, -2.469))
    )


@pytest.mark.parametrize(("count", "share", "held_out"), [(8, 0.5, 4), (10, 0.25, 2), (7, 0.7, 5)])
def test_the_parts(count: int, share: float, held_out: int):
    parts = split_photos(count, share, 5)
    assert len(parts[1]) == held_out
    assert sorted(parts[0] + parts[1]) == list(range(count))
    assert parts == split_photos(count, share, 5) != split_photos(count, share, 6)


@pytest.mark.parametrize(
    ("everywhere", "edges", "finding", "words"),
    [
        (2, 3, "helps", "The CRF helps on this data. Points of mean IoU on 6 photos held out: +2.00"),
        (2, 0, "helps", "The CRF helps on this data."),
        (0, 3, "helps", "The CRF helps on this data, near edges."),
        (-2, -3, "harms", "The CRF harms on this data: leave it out."),
        (0, -3, "harms", "The CRF harms on this data, near edges: leave it out."),
        (-2, 3, "mixed", "The CRF is better near edges and worse overall."),
        (2, -3, "mixed", "The CRF is better overall and worse near edges."),
        (0, 0, "inconclusive", "Inconclusive: 6 photos held out do not tell whether the CRF helps on this data"),
    ],
)
def test_the_verdict(everywhere: int, edges: int, finding: str, words: str):
    """Gains in points, with an interval of one point on each side."""

    def measured(points: int) -> Gain:
        return Gain(0.5, 0.5, 0.5 + points / 100, ((points - 1) / 100, (points + 1) / 100))

    found = Tuning(START, START, 4, 6, 3, 0, 0, (0.5, 0.5, 0.5), measured(everywhere), measured(edges))
    assert found.finding == finding
    assert words in found.verdict()
    numbers = (
        f"{everywhere:+.2f} (95 % interval {everywhere - 1:+.2f} to {everywhere + 1:+.2f}), near edges {edges:+.2f}"
    )
    assert numbers in found.verdict()
    assert ("As a rule a CRF adds up to two points" in found.verdict()) == (finding != "helps")


# Scores.


@pytest.mark.parametrize("square", [False, True])
def test_scores_are_stretched_over_the_photo_or_over_a_square(square: bool):
    """A ramp stays one, away from the borders: its slope and place show what was stretched over what."""
    height, width = 30, 60
    covered = (60, 60) if square else (height, width)
    y, x = ((np.arange(12) + 0.5) / 12 * side for side in covered)
    ramp = (3 * y[:, None] - 2 * x)[None]
    expected = 3 * (np.arange(height) + 0.5)[:, None] - 2 * (np.arange(width) + 0.5)
    found = resize_scores(ramp, (height, width), square)
    inner = (0, slice(3, None if square else -3), slice(3, -3))
    np.testing.assert_allclose(found[inner], expected[inner[1:]], atol=1e-3)
    with raises_saying(ValueError, "(1, 11, 12)", "no square"):
        resize_scores(ramp[:, :11], (height, width), square=True)


def test_square_scores_at_the_size_of_the_longer_side_are_cut(rng):
    scores = rng.normal(size=(2, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(resize_scores(scores, (5, 9), square=True), scores[:, :5])


def test_logits_of_photos(noisy: Path, rng):
    """Of probabilities, of one channel and of an array in an archive: the same as of logits."""
    for path in (noisy / "scores").iterdir():
        np.save(path, np.load(path).clip(-4, 4))
    logits = [np.load(path) for path in sorted((noisy / "scores").iterdir())]
    exact = [photo[1] for photo in map(scored(noisy).__getitem__, range(COUNT))]
    for path, given in zip(sorted((noisy / "scores").iterdir()), logits, strict=True):
        path.unlink()
        odds = given[1:] - given[:1]
        np.savez(path.with_suffix(".npz"), noise=rng.normal(size=3), odds=odds, p=1 / (1 + np.exp(-odds)))
    for options in ({"array": "odds"}, {"array": "p", "input": "probabilities"}):
        photos = scored(noisy, **options)
        for index, expected in enumerate(exact):
            found = photos[index][1]
            np.testing.assert_allclose(found[1] - found[0], expected[1] - expected[0], atol=2e-4)


@pytest.mark.parametrize("name", ["probabilities", "softmax"])
def test_arrays_say_that_they_are_probabilities(noisy: Path, name: str):
    """By their names, such as nnU-Net's; and --input has the last word."""
    path = noisy / "scores" / "photo 0.npy"
    logits = np.load(path)
    path.unlink()
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    np.savez(path.with_suffix(".npz"), other=np.zeros(3), **{name: shares})
    found = scored(noisy)[0][1]
    np.testing.assert_allclose(found[1] - found[0], logits[1] - logits[0], atol=2e-4)
    np.testing.assert_allclose(scored(noisy, input="logits")[0][1], shares, atol=1e-6)


def test_scores_that_seem_square(noisy: Path, rng):
    assert not scored(noisy).seem_square()
    for path in (noisy / "scores").iterdir():
        np.save(path, rng.normal(size=(2, 5, 5)))
    assert scored(noisy).seem_square()
    assert not scored(noisy, square=True).seem_square()
    sample, logits = scored(noisy, square=True)[0]
    assert logits.shape[1:] == sample.labels.shape


# The command.


def status(command: str) -> int:
    return main(["tune", *shlex.split(command)])


STARTING = "--theta-alpha 6 --theta-beta 30 --theta-gamma 1.5 --spatial-weight 1 --bilateral-weight 2 --iterations 3"


def test_the_command(noisy: Path, monkeypatch, capsys):
    monkeypatch.chdir(noisy.parent)
    assert status(f"noisy -o out/found.json --classes 2 --trials 5 --seed 2 --threads 2 {STARTING}") == 0
    expected = tune(scored(noisy), START, trials=5, seed=2)
    assert crfrnn.load_parameters("out/found.json") == expected.parameters
    notes = json.loads(Path("out/found.json").read_text(encoding="utf-8"))["notes"]
    assert notes | json.loads(json.dumps(expected.notes())) == notes
    assert (notes["data"], notes["split"], notes["scores"], notes["seed"]) == ("noisy", "val", "scores", 2)
    printed = capsys.readouterr()
    assert printed.out.startswith("\n\n".join(map(str, expected.tables())))
    assert "5 trials on 4 photos" in printed.out
    assert expected.verdict() in printed.out
    assert not printed.err


def test_other_scores_where_one_is_are_not_taken(noisy: Path, monkeypatch):
    """Without --scores they are those of the data, though a folder of this name lies here as well."""
    monkeypatch.chdir(noisy.parent)
    Path("scores").mkdir()
    assert status(f"noisy -o found.json --classes 2 --trials 1 --quiet {STARTING}") == 0
    assert json.loads(Path("found.json").read_text(encoding="utf-8"))["notes"]["scores"] == "scores"


@pytest.mark.parametrize("method", ["search", "gradient"])
def test_tuned_on_a_device(noisy: Path, method: str, monkeypatch, capsys):
    """The gain is the one that refining on the CPU gives in plain NumPy; nothing but warnings is printed if quiet."""
    monkeypatch.chdir(noisy)
    monkeypatch.setattr(descent, "STEPS", 8)
    trials = "--trials 3" if method == "search" else ""
    options = f"--classes 2 --method {method} {trials} --tolerance 0 {STARTING}"
    assert status(f". -o out.json --device cpu --quiet {options}") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""
    notes = json.loads(Path("out.json").read_text(encoding="utf-8"))["notes"]
    _, held_out = split_photos(COUNT, 0.5, 0)
    expected = mean_iou(scored(noisy), held_out, crfrnn.load_parameters("out.json"))
    assert notes["mean_iou"]["tuned"] == pytest.approx(expected, abs=0.02)
    assert status(f". -o none.json --device nowhere {options}") == 1
    assert "--device nowhere is not available" in capsys.readouterr().err


def test_the_help_tells_the_number_of_trials(capsys):
    with pytest.raises(SystemExit):
        status("--help")
    assert f"parameters to try (default: {tuning.TRIALS})" in capsys.readouterr().out


def test_a_run_goes_on_from_the_file_of_another(noisy: Path, monkeypatch, capsys):
    monkeypatch.chdir(noisy)
    crfrnn.save_parameters("first.json", START)
    assert status(". --scores ./scores -o second.json --classes 2 --trials 1 --parameters first.json") == 0
    assert crfrnn.load_parameters("second.json") == START


def test_square_scores_are_pointed_out(noisy: Path, rng, monkeypatch, capsys):
    monkeypatch.chdir(noisy)
    (noisy / "small").mkdir()
    for path in (noisy / "scores").iterdir():
        np.save(noisy / "small" / path.name, rng.normal(size=(2, 5, 5)))
    command = f". --scores small -o out.json --classes 2 --trials 1 {STARTING}"
    assert status(command) == 0
    assert "--square-scores" in capsys.readouterr().err
    assert status(f"{command} --square-scores") == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("calls", [3, 14])
def test_ctrl_c(noisy: Path, calls: int, monkeypatch, capsys):
    """In the first trial it ends all, in a later one the search; four photos are measured before it."""
    left = [4 + calls]

    def interrupted(*given, **options):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return crfrnn.refine(*given, **options)

    monkeypatch.setattr(measure, "refine", interrupted)
    monkeypatch.chdir(noisy)
    done = status(f". -o out.json --classes 2 --trials 50 --threads 1 {STARTING}")
    assert (done, Path("out.json").exists()) == (130, calls >= 4)
    said = capsys.readouterr().err
    if calls < 4:
        assert said == "crfrnn tune: interrupted: no trial is kept; the same command begins anew\n"
    else:
        notes = json.loads(Path("out.json").read_text(encoding="utf-8"))["notes"]
        assert notes["trials"] == 3
        assert said == (
            "crfrnn tune: interrupted: out.json has the best so far; out.json.trials has 3 of 50 trials; the same "
            "command goes on with them\n"
        )
        monkeypatch.undo()
        assert crfrnn.load_parameters(noisy / "out.json") == tune(scored(noisy), START, trials=3).parameters


@pytest.mark.parametrize("cut", [0, 7])
def test_a_search_that_was_cut_off_goes_on(noisy: Path, tmp_path: Path, cut: int, monkeypatch):
    """After any trial, and with a line that was not written to its end; another search begins anew."""
    photos, keep = scored(noisy), tmp_path / "trials"
    whole = tune(photos, START, trials=12, keep=keep)
    assert not keep.exists()
    refined = crfrnn.refine
    count = [0]

    def killed(*given, **options):
        count[0] += 1
        if count[0] > 28:
            raise SystemExit
        return refined(*given, **options)

    monkeypatch.setattr(measure, "refine", killed)
    with pytest.raises(SystemExit):
        tune(photos, START, trials=12, keep=keep, threads=1)
    monkeypatch.undo()
    written = keep.read_bytes()
    keep.write_bytes(written[: len(written) - cut])
    found = tune(photos, START, trials=12, keep=keep)
    assert 3 < found.continued < 12
    assert replace(found, continued=0) == whole
    assert not keep.exists()
    keep.write_bytes(written)
    assert tune(photos, START, trials=5, seed=1, keep=keep).continued == 0


def test_two_interrupts_in_a_row_are_one(noisy: Path):
    """As `timeout -s INT` sends them, to the process and to its group: what was found is written."""
    program = (
        "import os, signal, sys\nfrom crfrnn.tuning import measure\nfrom crfrnn.cli import main\n"
        "calls, refine = [0], measure.refine\n"
        "def interrupted(*given, **options):\n"
        "    calls[0] += 1\n"
        "    if calls[0] in (20, 21):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return refine(*given, **options)\n"
        "measure.refine = interrupted\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["tune", ".", "--classes", "2", "-o", "out.json", "--threads", "1", *shlex.split(STARTING)]
    done = subprocess.run([sys.executable, "-c", program, *command], cwd=noisy, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert 0 < json.loads((noisy / "out.json").read_text())["notes"]["trials"] < 40


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("noisy", "required: -o"),
        ("noisy -o out.txt", "out.txt is to hold parameters as JSON"),
        ("noisy -o folder.json", "folder.json is a folder"),
        ("noisy -o out.json --trials 0", "--trials must be at least 1, not 0"),
        ("noisy -o out.json --seed=-1", "--seed must be at least 0"),
        ("noisy -o out.json --threads 0", "--threads must be at least 1"),
        ("noisy -o out.json --holdout 1", "--holdout must be above 0 and below 1, not 1.0"),
        ("noisy -o out.json --holdout nan", "--holdout must be above 0 and below 1, not nan"),
        ("noisy -o out.json --theta-beta=-1", "--theta-beta -1"),
        ("noisy -o out.json --input labels", "invalid choice"),
    ],
)
def test_usage(noisy: Path, command: str, words: str, monkeypatch, capsys):
    monkeypatch.chdir(noisy.parent)
    Path("folder.json").mkdir()
    with pytest.raises(SystemExit) as end:
        status(command)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("none -o out.json", ["none", "no such folder"]),
        ("noisy -o out.json --split test", ["no split 'test'", "val"]),
        ("noisy -o out.json --split empty", ["'empty'", "is empty"]),
        ("noisy -o out.json --scores logits", ["noisy/logits", "no such folder"]),
        ("noisy -o out.json --scores some", ["6 of 8 photos", "'val'", "photo 2, photo 3, photo 4, …", ".npy, .npz"]),
        ("noisy -o out.json --scores two", ["photo 0.npy and photo 0.npz", "keep one"]),
        ("noisy -o out.json --scores large", ["photo", "(2, 99, 9)", "at most", "pixels"]),
        ("noisy -o out.json --scores flat", ["photo", "(2, 9)", "(classes, height, width)"]),
        ("noisy -o out.json --scores broken", ["cannot read", "photo"]),
        ("noisy -o out.json --input probabilities", ["photo", "probabilities range"]),
        (
            "noisy -o out.json --classes 3",
            [
                "photo",
                "2 classes",
                "labels are said to have 3 (class 0, class 1, class 2): say which, such as --classes 2",
            ],
        ),
        ("noisy -o out.json --split three", ["of 3 photos", "1 to tune on", "2 of each"]),
        ("noisy -o out.json --spatial-weight 0 --bilateral-weight 0", ["both weights are 0"]),
        ("noisy -o out.json --spatial-weight 1,2,3", ["spatial_weight", "(3,)", "2 classes"]),
        ("noisy -o out.json --parameters none.json", ["none.json", "no such file"]),
        ("void -o out.json", ["4 photos held out are void"]),
    ],
)
def test_failures(noisy: Path, rng, command: str, words: list[str], monkeypatch, capsys):
    monkeypatch.chdir(noisy.parent)
    (noisy / "empty.txt").write_text("\n")
    (noisy / "three.txt").write_text("photo 0\nphoto 1\nphoto 2\n")
    scores = np.zeros((2, 9, 9), np.float32)
    for folder, array in (("some", scores), ("two", scores), ("large", np.zeros((2, 99, 9))), ("flat", scores[0, :2])):
        (noisy / folder).mkdir()
        for index in range(2 if folder == "some" else COUNT):
            np.save(noisy / folder / f"photo {index}.npy", array)
    np.savez(noisy / "two" / "photo 0.npz", scores)
    (noisy / "broken").mkdir()
    for path in (noisy / "scores").iterdir():
        (noisy / "broken" / path.name).write_bytes(path.read_bytes()[:-50])
    if command.startswith("void"):
        for path in (write_data(Path("void"), rng, noise=1.0) / "labels").iterdir():
            Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    assert status(f"{command} --trials 2 {'' if '--classes' in command else '--classes 2'}") == 1
    error = capsys.readouterr().err
    assert error.startswith("crfrnn tune: error: ")
    assert error.count("\n") == 1
    missing = [fact for fact in words if fact not in error]
    assert not missing, error
    assert not Path("out.json").exists()


def test_photos_to_tune_on_that_are_void(noisy: Path):
    for index in split_photos(COUNT, 0.5, 0)[0]:
        path = noisy / "labels" / f"photo {index}.png"
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    with raises_saying(ValueError, "4 photos to tune on are void"):
        tune(scored(noisy), START, trials=2)


@pytest.mark.parametrize("package", ["optuna", "torchmetrics"])
def test_missing_packages(package: str, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("crfrnn.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with raises_saying(ImportError, package, "pip install 'crfrnn[tune]'"):
        import crfrnn.tuning  # noqa: F401
