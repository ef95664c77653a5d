"""`crfrnn train`: trains a network and its CRF-RNN on the user's own data."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

from crfrnn.cli.parameter_options import PARAMETERS_HELP
from crfrnn.cli.parser import add_command, add_quiet
from crfrnn.cli.printing import say, say_table
from crfrnn.files.table import Table
from crfrnn.interrupts import telling
from crfrnn.training.config import TrainingConfig, config_from, meaning_of, parsed, read_settings, settings_of

TRAIN_HELP = """\
Train a segmentation network: first alone, then with a CRF-RNN behind it.

CONFIG.yaml holds settings such as `batch_size: 8`. Each can also be given as an option. A parameters file gives the
settings of the CRF: it overrides CONFIG.yaml, and options override both. Two settings are required: the folder of the
data and the folder for the results. The model is written there as model.safetensors, beside all settings, logs for
TensorBoard and as CSV, and checkpoints. After Ctrl-C or any other interruption, the same command continues where it
stopped; with another number of processes too, and then says what that changes.
"""
EXAMPLES = """\
  crfrnn train --data data/ --classes msrc21 --output run/
  crfrnn train config.yaml --batch-size 4 --output other/
  crfrnn train config.yaml --nodes 2 --node-rank 0 --main-address 10.0.0.1:29500
"""


def add_train(commands: Any) -> None:
    """Add the command `train`."""
    usage = "[-h] [CONFIG.yaml] [--data DIR] [--output DIR] [--parameters FILE] [--SETTING VALUE ...]"
    parser = add_command(commands, "train", "train a network and its CRF on your data", TRAIN_HELP, EXAMPLES, usage)
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="a file with settings")
    parser.add_argument("--parameters", type=Path, metavar="FILE", help=f"{PARAMETERS_HELP}: the CRF starts with them")
    add_quiet(parser)
    several = parser.add_argument_group(
        "several machines",
        "The same command runs on each of them, with --nodes and what follows. Under torchrun and SLURM (srun), these "
        "say how many machines and processes there are, and nothing is needed here.",
    )
    several.add_argument("--node-rank", type=int, metavar="R", help="which machine this is, 0 to nodes - 1")
    several.add_argument("--main-address", metavar="HOST:PORT", help="where machine 0 is reached by the others")
    group = parser.add_argument_group("settings")
    for setting in fields(TrainingConfig):
        # --flip alone is --flip true.
        alone: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(setting.default, bool) else {}
        group.add_argument(
            f"--{setting.name.replace('_', '-')}",
            *(["-o"] if setting.name == "output" else []),
            dest=setting.name,
            type=partial(parsed, setting.name),
            metavar="VALUE",
            **alone,
            default=argparse.SUPPRESS,
            help=meaning_of(setting.name)
            + ("" if setting.default is MISSING else f" (default: {_written(setting.default)})"),
        )
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Train as the file and the options say. Returns the exit status."""
    settings = {} if options.config is None else read_settings(options.config)
    if options.parameters is not None:
        settings |= settings_of(options.parameters)
    settings |= {
        setting.name: getattr(options, setting.name)
        for setting in fields(TrainingConfig)
        if hasattr(options, setting.name)
    }
    config = config_from(settings)

    from crfrnn.training.train import is_first_process, train

    with telling(lambda: f"the same command goes on from what {config.output} has"):
        result = train(config, node_rank=options.node_rank, main_address=options.main_address)
    if not is_first_process():
        return 0
    rows = [[stage, str(found.epoch), f"{100 * found.val_miou:.2f}"] for stage, found in result.stages.items()]
    say_table(Table(("", "best epoch", f"mean IoU on {config.val_split}"), rows))
    say(str(result.model))
    return 0


def _written(value: object) -> str:
    """A setting's default as it would be written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
