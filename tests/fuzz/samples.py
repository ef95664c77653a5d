"""Whole files of every format that the package reads, small, and files made to do harm."""

import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH, CLASSES = 8, 10, 3
_rng = np.random.default_rng(7)
PHOTO = _rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
LOGITS = _rng.normal(size=(CLASSES, HEIGHT, WIDTH)).astype(np.float32)
LABELS = LOGITS.argmax(axis=0).astype(np.uint8)
VOLUME = _rng.integers(0, 200, (4, HEIGHT, WIDTH)).astype(np.int16)

SAMPLES: dict[str, Callable[[], bytes]] = {}
"""What makes the bytes of a file, by a name that ends like the file's."""


def sample(name: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Keep a function under this name."""

    def keep(make: Callable[[], bytes]) -> Callable[[], bytes]:
        SAMPLES[name] = cache(make)
        return make

    return keep


def suffix(name: str) -> str:
    """How a file of this sample is called."""
    return name[name.index(".") :]


def _saved(write: Callable[[Any], Any]) -> bytes:
    held = io.BytesIO()
    write(held)
    return held.getvalue()


def _at_path(ending: str, write: Callable[[str], Any]) -> bytes:
    """Of a library that writes to paths only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sample{ending}"
        write(str(path))
        return path.read_bytes()


for _name, _options in {
    "photo.png": {}, "photo.jpg": {"quality": 95}, "photo.bmp": {}, "photo.webp": {"lossless": True}, "photo.tif": {},
}.items():  # fmt: skip
    SAMPLES[_name] = cache(
        lambda name=_name, options=_options: _saved(
            lambda file: Image.fromarray(PHOTO).save(
                file, {"jpg": "JPEG", "tif": "TIFF"}.get(name[6:], name[6:].upper()), **options
            )
        )
    )


@sample("labels.png")
def _labels() -> bytes:
    image = Image.fromarray(LABELS)
    image.putpalette(list(range(0, 9)) + [0] * 759)
    return _saved(lambda file: image.save(file, "PNG"))


@sample("mask.png")
def _mask() -> bytes:
    return _saved(lambda file: Image.fromarray(np.uint8(255) * (LABELS == 1)).save(file, "PNG"))


@sample("turned.jpg")
def _turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return _saved(lambda file: Image.fromarray(PHOTO).save(file, "JPEG", exif=exif))


@sample("pages.tif")
def _pages() -> bytes:
    import tifffile

    return _saved(lambda file: tifffile.imwrite(file, LOGITS, photometric="minisblack", compression="zlib"))


@sample("deep.tif")
def _deep() -> bytes:
    import tifffile

    deep = PHOTO.astype(np.uint16) * 257
    return _saved(lambda file: tifffile.imwrite(file, deep, photometric="rgb", tile=(16, 16), compression="zlib"))


@sample("scores.npy")
def _npy() -> bytes:
    return _saved(lambda file: np.save(file, LOGITS))


@sample("scores.npz")
def _npz() -> bytes:
    return _saved(lambda file: np.savez_compressed(file, logits=LOGITS, other=np.arange(3)))


@sample("probabilities.npz")
def _probabilities() -> bytes:
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=0)
    return _saved(lambda file: np.savez(file, probabilities=shares))


@sample("scores.safetensors")
def _safetensors() -> bytes:
    from safetensors.numpy import save

    return save({"logits": LOGITS, "other": np.arange(3)})


@sample("scores.pt")
def _pt() -> bytes:
    import torch

    return _saved(lambda file: torch.save({"logits": torch.from_numpy(LOGITS), "step": 3}, file))


@sample("old.pt")
def _old_pt() -> bytes:
    import torch

    return _saved(lambda file: torch.save(torch.from_numpy(LOGITS), file, _use_new_zipfile_serialization=False))


def _nifti(voxels: Any, ending: str) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image(voxels.T, np.diag([0.5, 0.75, 3, 1]))
    return _at_path(ending, lambda path: nibabel.save(image, path))


@sample("scan.nii")
def _nii() -> bytes:
    return _nifti(VOLUME, ".nii")


@sample("scan.nii.gz")
def _nii_gz() -> bytes:
    return _nifti(VOLUME, ".nii.gz")


@sample("labels.nii.gz")
def _labels_nii_gz() -> bytes:
    return _nifti((VOLUME > 90).astype(np.uint8), ".nii.gz")


@sample("coco.json")
def _coco() -> bytes:
    from pycocotools import mask

    runs = mask.encode(np.asfortranarray((LABELS == 1).astype(np.uint8)))
    flat = (LABELS == 2).T.ravel().astype(int)
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    segmentations = [
        {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()},
        [[1, 1, 8, 1, 8, 6, 1, 6]],
        {"size": [HEIGHT, WIDTH], "counts": counts if not flat[0] else [0, *counts]},
    ]
    annotations = [
        {
            "id": n,
            "image_id": 4,
            "category_id": n + 1,
            "segmentation": each,
            "iscrowd": 0,
            "area": 3,
            "bbox": [1, 1, 2, 2],
        }
        for n, each in enumerate(segmentations)
    ]
    images = [{"id": 4, "file_name": "photo.png", "height": HEIGHT, "width": WIDTH}]
    return json.dumps({"images": images, "annotations": annotations, "categories": []}).encode()


@sample("parameters.json")
def _parameters() -> bytes:
    return b'{"theta_alpha": 40, "theta_beta": [9, 9, 8], "bilateral_weight": 2, "notes": {"finding": "helps"}}'


@sample("crf.json")
def _crf() -> bytes:
    from crfrnn import CRF, Bilateral, Kernel, Spatial

    return CRF([Kernel(Spatial(2.0)), Kernel(Bilateral(20.0, 9.0), 2.0)]).text.encode()


@sample("settings.yaml")
def _settings() -> bytes:
    return b"data: nowhere\noutput: out\nbatch_size: 2\ncrop: [8, 8]\nclass_weights: [1, 2]\nnetwork_rate: 1e-3\n"


@sample("names.txt")
def _names() -> bytes:
    return b"background\ncat\ndog\n"


@sample("model.safetensors")
def _model() -> bytes:
    import torch

    from crfrnn.files.classes import class_set
    from crfrnn.models import FcnLite, Segmenter, save_model
    from crfrnn.torch import CrfRnn

    torch.manual_seed(0)
    segmenter = Segmenter(FcnLite(3), CrfRnn(3, 2))
    return _at_path(".safetensors", lambda path: save_model(path, segmenter, class_set(3), half=True))


@sample("clip.mp4")
def _clip() -> bytes:
    return _video(".mp4")


@sample("clip.gif")
def _gif() -> bytes:
    return _video(".gif")


def _video(ending: str) -> bytes:
    from fractions import Fraction

    from crfrnn.files.frames import write_video

    frames = np.repeat(np.repeat(_rng.integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8), 4, 1), 4, 2)
    return _at_path(ending, lambda path: write_video(Path(path), frames, Fraction(25)))


@sample("weights.h5")
def _h5() -> bytes:
    import h5py

    def write(path: str) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "conv1_1/conv1_1/kernel:0", data=np.zeros((3, 3, 3, 64), np.float32), compression="gzip"
            )

    return _at_path(".h5", write)


@sample("weights.pth")
def _pth() -> bytes:
    import torch

    return _saved(lambda file: torch.save({"conv1_1.weight": torch.zeros(4)}, file))


class Payload:
    """What a pickle would run: it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


MARK = "opened-by-a-pickle"
HARMFUL: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Payload(MARK)),
    "old pickle": lambda: pickle.dumps(Payload(MARK), protocol=0),
    "npy of objects": lambda: _saved(lambda file: np.save(file, np.array([Payload(MARK)], object), allow_pickle=True)),
    "npz of objects": lambda: _saved(lambda file: np.savez(file, logits=np.array([Payload(MARK)], object))),
    "pt of objects": lambda: _saved(_torch_saved),
    "yaml that runs": lambda: f'data: !!python/object/apply:builtins.open ["{MARK}", "w"]\noutput: out\n'.encode(),
    "yaml that grows": lambda: b"a: &a [x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (i + 1, i + 1, b",".join([b"*%c" % i] * 8)) for i in range(97, 105))
    + b"data: *i\noutput: out\n",
    "json in depth": lambda: b"[" * 100_000,
    "json of a long number": lambda: b'{"theta_alpha": ' + b"9" * 5000 + b"}",
    "json that is infinite": lambda: b'{"theta_alpha": Infinity, "theta_beta": NaN}',
    "json that exceeds": lambda: b'{"theta_alpha": 1e400, "spatial_weight": 1e308}',
    "huge png": lambda: _png(200_000, 200_000),
    "large png": lambda: _png(12_000, 12_000),
    "png of no pixels": lambda: _png(0, 0),
    "huge npy": lambda: _npy_header((10**6, 10**6)),
    "npy beyond 64 bits": lambda: _npy_header((2**40, 2**40)),
    "npy of a negative shape": lambda: _npy_header((-1, 5)),
    "npy of no axes": lambda: _npy_header(()) + bytes(8),
    "npy of text": lambda: _saved(lambda file: np.save(file, np.array(["a", "b"]))),
    "npy of fields": lambda: _saved(lambda file: np.save(file, np.zeros(3, [("a", "f4"), ("b", "i4")]))),
    "npy of nothing": lambda: _saved(lambda file: np.save(file, np.zeros((3, 0, 4)))),
    "npz of nothing": lambda: _zip({}),
    "npz of text": lambda: _zip({"logits.npy": b"no array", "readme.txt": b"text"}),
    "npz of huge arrays": lambda: _zip({"logits.npy": _npy_header((10**6, 10**6))}),
    "npz with a long member": lambda: _zip({"logits.npy": _npy_header((2**28,)) + bytes(1 << 22)}),
    "zip in a folder": lambda: _zip({"../../logits.npy": _npy(), "/logits.npy": _npy()}),
    "huge nifti": lambda: _nii()[:40] + struct.pack("<8h", 3, 30_000, 30_000, 30_000, 1, 1, 1, 1) + _nii()[56:],
    "nifti of no voxels": lambda: _nii()[:40] + struct.pack("<8h", 3, 0, 5, 5, 1, 1, 1, 1) + _nii()[56:],
    "nifti of negative sides": lambda: _nii()[:40] + struct.pack("<8h", 3, -4, 5, 5, 1, 1, 1, 1) + _nii()[56:],
    "nifti of 7 axes": lambda: _nii()[:40] + struct.pack("<8h", 7, 2, 2, 2, 2, 2, 2, 2) + _nii()[56:],
    "nifti scaled by NaN": lambda: _nii()[:112] + struct.pack("<2f", np.nan, 0) + _nii()[120:],
    "nifti scaled by 1e38": lambda: _nii()[:112] + struct.pack("<2f", 3e38, 0) + _nii()[120:],
    "safetensors of a huge header": lambda: struct.pack("<Q", 2**62) + b"{}",
    "safetensors of huge tensors": lambda: _safetensors_header([2**40, 2**40], 4),
    "safetensors beyond its end": lambda: _safetensors_header([3], 2**40),
    "coco of a huge size": lambda: _coco_of({"size": [2**20, 2**20], "counts": "0"}),
    "coco of a negative size": lambda: _coco_of({"size": [-8, 10], "counts": [80]}),
    "coco of runs that are too long": lambda: _coco_of({"size": [HEIGHT, WIDTH], "counts": [2**31 - 1, 5]}),
    "coco of text that is too long": lambda: _coco_of({"size": [HEIGHT, WIDTH], "counts": "oooooooooooooooooooooo1"}),
    "coco of text without an end": lambda: _coco_of({"size": [HEIGHT, WIDTH], "counts": "o"}),
    "coco of huge polygons": lambda: _coco_of([[0, 0, 1e9, 0, 1e9, 1e9]]),
    "coco of NaN": lambda: _coco_of([[0, 0, float("nan"), 4, 4, 4]]),
    "coco of a line": lambda: _coco_of([[1, 1]]),
    "coco of odd numbers": lambda: _coco_of([[1, 1, 5, 5, 3]]),
    "coco of words": lambda: _coco_of([["a", "b"]]),
    "nothing": lambda: b"",
    "zeros": lambda: bytes(5000),
    "not UTF-8": lambda: b"\xff\xfe\x00cat\n\xe4\n",
    "text": lambda: b"the quick brown fox\n" * 40,
}  # fmt: skip


def _torch_saved(file: Any) -> None:
    import torch

    torch.save({"logits": Payload(MARK)}, file)


def _png(width: int, height: int) -> bytes:
    """A PNG of a size, whose pixels are not all there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _npy_header(shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": "<f8", "fortran_order": False, "shape": shape})
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _zip(members: dict[str, bytes]) -> bytes:
    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return _saved(write)


def _safetensors_header(shape: list[int], end: int) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def _coco_of(segmentation: Any) -> bytes:
    annotation = {"id": 1, "image_id": 4, "category_id": 1, "segmentation": segmentation}
    images = [{"id": 4, "file_name": "photo.png", "height": HEIGHT, "width": WIDTH}]
    return json.dumps({"images": images, "annotations": [annotation]}).encode()
