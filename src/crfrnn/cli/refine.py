"""`crfrnn refine`: scores and images in, refined labels or probabilities out."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from crfrnn.cli.clip import refine_clip
from crfrnn.cli.coco import refine_coco
from crfrnn.cli.engines import add_ray, chosen_engine, require_this_machine
from crfrnn.cli.folder import RefineFolder, refine_folder
from crfrnn.cli.inputs import Reading
from crfrnn.cli.outputs import FORMAT_SUFFIXES, format_of
from crfrnn.cli.parameter_options import (
    ARRAY_HELP,
    CLASSES_HELP,
    SQUARE_HELP,
    add_common_parameters,
    add_device,
    add_rarer_parameters,
    chosen_classes,
    chosen_parameters,
    is_contrast,
)
from crfrnn.cli.parser import Parser, add_command, add_quiet
from crfrnn.cli.printing import complain, say
from crfrnn.cli.refinement import Refinement, Tiling, iterations_run, tiles_worked_on
from crfrnn.cli.usage import UsageError, byte_count, distances, frames, given_place, one_line
from crfrnn.files.coco import SUFFIX as COCO_SUFFIX
from crfrnn.files.frames import VIDEO_SUFFIXES
from crfrnn.files.naming import naming_of
from crfrnn.files.parameter_files import crf_of
from crfrnn.files.photos import stem_of, suffix_of
from crfrnn.files.places import Place, delivered, fetched, is_folder, is_there, real_place
from crfrnn.files.progress import progress
from crfrnn.tiles import class_count
from crfrnn.upsampling import Method

REFINE_HELP = """\
Refine class scores, labels or a mask with the photo or the volume they belong to.

SCORES is one of these:
  class scores (C, H, W) or (C, D, H, W) in .npy, .npz (also nnU-Net's), .pt, .pth or .safetensors; of a single class,
    whole numbers are labels and others scores of the foreground;
  a label image of class ids, or a mask of two levels such as 0 and 255, which is written as such a mask again;
  a soft mask in grey levels, with --input probabilities;
  a NIfTI file of labels, of foreground scores, or of scores (X, Y, Z, C);
  a .json file of COCO's annotations or results, in which each mask is refined by itself.
Scores smaller than a photo are stretched over the whole of it (--upsampling).

IMAGE is one of these: a photo, turned upright as its EXIF orientation says unless the scores have its proportions as
stored; a NIfTI volume; a TIFF of many pages, many channels or more than 8 bits; or an array (H, W, K). Several files
are the channels of one image.

SCORES and IMAGE may also be two folders, or one that holds both: a.npy, a_scores.npy or a_mask.png belong to a.jpg,
and a.npz to a_0000.nii.gz and a_0001.nii.gz. Of several, such as a_mask1.png and a_cat_mask.png, each is refined, and
its result has its name. Results go to the folder OUT, and existing results are not computed again. Folders of many
photos can be refined by a Ray cluster (--ray).

Files and folders may lie anywhere that fsspec reaches, such as s3://bucket/photos, with the package for it installed.

In a NIfTI file voxels have a size, and θ_α and θ_γ are in MILLIMETRES, not in pixels.
"""
EXAMPLES = """\
  crfrnn refine scores.npy photo.jpg -o labels.png
  crfrnn refine mask.png photo.jpg -o refined.png                      # a mask of 0 and 255
  crfrnn refine soft.png photo.jpg -o mask.png --input probabilities   # grey levels from a sigmoid
  crfrnn refine scores.pt photo.jpg -o overlay.png --preset deeplab
  crfrnn refine scores/ photos/ -o refined/ --format npz
  crfrnn refine case.npz case_0000.nii.gz case_0001.nii.gz -o refined.nii.gz --theta-beta contrast
  crfrnn refine huge.npy huge.tif -o labels.tif --memory 4GB
  crfrnn refine annotations.json photos/ -o refined.json               # masks of COCO
  crfrnn refine scores/ clip.mp4 -o refined.mp4 --time-theta 2
  crfrnn refine s3://bucket/scores s3://bucket/photos -o s3://bucket/refined --ray
"""


NOT_FOR_COCO = {
    "input": (None, "labels"),
    "format": (None, "coco"),
    "array": (None,),
    "num_classes": (None, 2),
    "classes": (None,),
    "square_scores": (False,),
    "upsampling": (None,),
    "time_theta": (None,),
}
"""Options that say nothing about COCO's masks, and the values that do not either."""


def add_refine(commands: Any) -> None:
    """Add the command `refine`."""
    parser = add_command(
        commands,
        "refine",
        "refine class scores with the photo they belong to",
        REFINE_HELP,
        EXAMPLES,
        "SCORES IMAGE [IMAGE ...] -o OUT [OPTION ...]",
    )
    parser.add_argument(
        "scores", type=given_place, metavar="SCORES", help="scores, labels, a mask, or a folder of them"
    )
    parser.add_argument(
        "image", type=given_place, nargs="+", metavar="IMAGE", help="the photo or volume, or a folder of them"
    )
    parser.add_argument(
        "-o", "--output", type=given_place, metavar="OUT", required=True, help="file or folder to write"
    )
    parser.add_argument(
        "--input",
        choices=("logits", "probabilities", "labels"),
        help="what SCORES are (default: logits; labels for an image and for volumes of whole numbers; "
        "probabilities for arrays of that name or called softmax)",
    )
    add_common_parameters(parser, contrast=True)
    _add_files(parser.add_argument_group("files"))
    _add_work(parser.add_argument_group("work"))
    tiling = parser.add_argument_group(
        "images larger than memory",
        "With any of these, images are refined tile by tile, from and to .npy or TIFF. With --time-theta, tiles are "
        "windows of all pixels in time, and PIXELS are frames.",
    )
    tiling.add_argument("--tile", type=int, metavar="PIXELS", help="most pixels of a tile along each axis")
    tiling.add_argument("--memory", type=byte_count, metavar="AMOUNT", help="roughly how much to use, such as 4GB")
    tiling.add_argument(
        "--overlap", type=int, metavar="PIXELS", help="margin around each tile (default: 3 theta-alpha)"
    )
    add_rarer_parameters(parser)
    parser.set_defaults(run=run_refine, parser=parser)


def _add_files(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--format",
        choices=tuple(FORMAT_SUFFIXES),
        help="labels: indexed .png with the colours of PASCAL VOC, .nii.gz with the geometry of the image, .tif with "
        "its place on earth, or .npy; overlay: the photo tinted by class with a legend, .jpg or .png, reduced to 1600 "
        "pixels; coco: a list of COCO's results, a mask for each class but 0; npy, npz: probabilities (C, H, W) as "
        "float32; nii: probabilities (X, Y, Z, C) "
        "(default: as OUT's name says, such as overlay.png or NAME_overlay.png; labels for folders)",
    )
    group.add_argument("--array", metavar="NAME", help=ARRAY_HELP)
    group.add_argument(
        "--num-classes", type=int, metavar="C", help="classes of label input (default: the largest id + 1)"
    )
    group.add_argument("--classes", metavar="CLASSES", help=f"names in the legend of an overlay: {CLASSES_HELP}")
    group.add_argument(
        "--square-scores",
        action="store_true",
        help=SQUARE_HELP,
    )
    group.add_argument(
        "--upsampling",
        choices=get_args(Method),
        help="how scores smaller than the photo are brought to its size: joint-bilateral follows the photo's edges "
        "(default: bilinear)",
    )
    group.add_argument(
        "--as-stored", action="store_true", help="leave photos as stored, without their EXIF orientation"
    )
    group.add_argument(
        "--time-theta",
        type=frames,
        metavar="T",
        help="IMAGE is a video, or a folder of frames in the order of the numbers in their names, and the kernels also "
        "reach along time with this deviation, in frames. SCORES is a folder of files for each frame, or an array "
        "(C, frames, H, W). OUT is a folder of results for each frame, a volume, or a video tinted by class",
    )
    group.add_argument(
        "--spacing",
        type=distances,
        metavar="VALUE",
        help="distance between neighbouring pixels, a number or x,y[,z], instead of what the file says: theta-alpha "
        "and theta-gamma are in its unit; 1 has them in pixels",
    )


def _add_work(group: argparse._ActionsContainer) -> None:
    group.add_argument("--overwrite", action="store_true", help="in a folder, redo what is already there")
    add_quiet(group)
    group.add_argument("--threads", type=int, metavar="T", help="threads (default: OMP_NUM_THREADS, or all cores)")
    add_device(group)
    add_ray(group)


def run_refine(options: argparse.Namespace) -> int:
    """Refine a file or a folder. Returns the exit status."""
    parser: Parser = options.parser
    scores, images, output, chosen_format = options.scores, options.image, options.output, options.format
    try:
        refinement = chosen_refinement(options)
        if suffix_of(scores) == COCO_SUFFIX:
            _refuse(options, NOT_FOR_COCO, "masks of COCO are refined one by one, each as foreground and background")
            require_this_machine(options, "masks of COCO are refined", scores, *images, output)
            return refine_coco(refinement, scores, images, output)
        if options.time_theta is not None:
            require_this_machine(options, "frames are refined together", scores, *images, output)
            return refine_clip(refinement, scores, images, output, chosen_format, options.time_theta)
        if any(suffix_of(image) in VIDEO_SUFFIXES for image in images):
            raise UsageError("IMAGE is a video: give --time-theta, such as 2, for the frames that belong together")
        if any(is_folder(image) != is_folder(scores) for image in images):
            if missing := [str(path) for path in (scores, *images) if not is_there(path)]:
                raise ValueError(f"there is no file or folder {missing[0]}")
            raise UsageError("SCORES and IMAGE must both be files or both be folders")
        if is_folder(scores):
            if len(images) > 1:
                raise UsageError(f"{len(images)} folders of images; put them into one, named a_0000, a_0001, …")
            job = RefineFolder(refinement, scores, images[0], output, chosen_format)
            return refine_folder(job, options.overwrite, chosen_engine(options))
        if (options.ray is not None or not suffix_of(scores)) and not is_there(scores):  # a folder is meant
            raise ValueError(f"there is no file or folder {scores}")
        require_this_machine(options, "one file is refined")
        return refine_file(refinement, scores, images, output, chosen_format)
    except UsageError as error:
        parser.error(str(error))


def _refuse(options: argparse.Namespace, known: Mapping[str, tuple[Any, ...]], reason: str) -> None:
    """Raise a UsageError for options that have other values than these."""
    given = [f"--{name.replace('_', '-')}" for name, allowed in known.items() if getattr(options, name) not in allowed]
    if given:
        raise UsageError(f"{reason}: leave out {', '.join(given)}")


def chosen_refinement(options: argparse.Namespace) -> Refinement:
    """The refinement that options describe. Raises UsageError if they do not fit together."""
    tiled = (options.tile, options.overlap, options.memory)
    tiling = None if tiled == (None, None, None) else Tiling(*tiled)
    if options.upsampling is not None and tiling is not None:
        raise UsageError("--upsampling does not go with tiles: leave out --tile, --memory and --overlap")
    reading = Reading(
        options.input,
        options.array,
        options.num_classes,
        options.square_scores,
        tiling is not None,
        options.upsampling or "bilinear",
        options.as_stored,
        None if options.classes is None else chosen_classes(naming_of, options.classes),
    )
    return Refinement(
        crf_of(chosen_parameters(options)),
        reading,
        options.threads,
        options.device,
        is_contrast(options.theta_beta),
        options.spacing,
        tiling,
    )


def refine_file(
    refinement: Refinement,
    scores: Place,
    images: Sequence[Place],
    output: Place,
    output_format: str | None,
) -> int:
    """Refine one photo or volume. Returns the exit status."""
    if is_folder(output):
        raise UsageError(f"{output} is a folder; name a file in it, such as {output / stem_of(images[0])}.png")
    if real_place(scores) in map(real_place, images):
        raise UsageError(f"{scores} is given as SCORES and as IMAGE")
    if real_place(output) in map(real_place, (scores, *images)):
        raise UsageError(f"{output} is one of the inputs; name another file to write")
    start = time.perf_counter()
    chosen_format = format_of(output, output_format)
    with fetched(scores, *images) as paths:
        pair = refinement.reading.pair(paths[0], paths[1:])
        with delivered(output) as path:
            written = refinement.write(pair, path, chosen_format, show=lambda tiles: progress(tiles, "refine"))
    for warning in filter(None, (written.warning, written.lost)):
        complain("crfrnn refine", "warning", one_line(output), warning)
    classes = max(class_count(pair.scores, pair.kind, refinement.num_classes), pair.least_classes)
    size, seconds = "×".join(map(str, reversed(pair.grid))), time.perf_counter() - start
    done = [written.change.words]
    if written.iterations is not None:
        done = [iterations_run(Counter([written.iterations]), refinement.crf), *done]
    if written.tiles:
        done = [tiles_worked_on(written.tiles), *done]
    say(f"{size}, {classes} classes{pair.remark}{written.remark}, {', '.join(done)}, {seconds:.2f} s", output)
    return 0
