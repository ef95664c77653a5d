"""Which of the processes that train together this one is: on one machine or several, however they were started."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from crfrnn.files.progress import Display, display
from crfrnn.training.config import MACHINE_SETTINGS, TrainingConfig


def launched(config: TrainingConfig) -> TrainingConfig:
    """The settings with as many machines and processes as torchrun or SLURM have started."""
    if TorchElasticEnvironment.detect():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return replace(config, devices=devices, nodes=int(os.environ["WORLD_SIZE"]) // devices)
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return replace(config, devices=max(1, int(os.environ["SLURM_NTASKS"]) // nodes), nodes=nodes)
    return config


def join(config: TrainingConfig, node_rank: int | None = None, main_address: str | None = None) -> None:
    """Tell Lightning which machine this is, and where the first one is.

    Args:
        node_rank: The number of this machine, from 0; None is that of NODE_RANK.
        main_address: HOST:PORT of machine 0; None is that of MASTER_ADDR and MASTER_PORT.
    Raises: ValueError: if there are several machines and it is not said which this is, or where the first one is.
    """
    if TorchElasticEnvironment.detect() or SLURMEnvironment.detect():
        if node_rank is not None or main_address is not None:
            raise ValueError("torchrun or SLURM says which machine this is: leave out --node-rank and --main-address")
        return
    if node_rank is not None:
        os.environ["NODE_RANK"] = str(node_rank)
    if main_address is not None:
        host, _, port = main_address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--main-address {main_address} must be HOST:PORT, such as 10.0.0.1:29500")
        os.environ |= {"MASTER_ADDR": host.strip("[]"), "MASTER_PORT": port}
    if config.nodes == 1:
        if node_rank or main_address is not None:
            raise ValueError("--node-rank and --main-address are for several machines: say how many by --nodes")
        return
    if not os.environ.keys() >= {"NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}:
        raise ValueError(
            f"nodes={config.nodes}: say which machine this is by --node-rank, from 0, and where machine 0 is by "
            "--main-address HOST:PORT; or start all of them by torchrun or srun"
        )
    number = os.environ["NODE_RANK"]
    if not number.isdecimal() or int(number) >= config.nodes:
        raise ValueError(f"--node-rank {number} must be from 0 to {config.nodes - 1}: there are {config.nodes} nodes")
    first: Any = rank_zero_only
    first.rank = int(number) * config.devices + int(os.environ.get("LOCAL_RANK", 0))


def ranks(settings: TrainingConfig | Mapping[str, Any]) -> int:
    """How many processes train together."""
    given = settings if isinstance(settings, Mapping) else asdict(settings)
    return int(given["devices"]) * int(given.get("nodes", 1))


class Meeting(Callback):
    """Says that this process waits for those on other machines, and lets signals end it at once meanwhile.

    Signals would wait for the other machines too: no code of Python runs in this thread until these have come.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.nodes = config.nodes
        self.signals: socket.socket | None = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """What begins with the meeting.

        Raises: ValueError: if processes do not find or lose each other.
        """
        self._begin()
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
                raise
            words = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).partition(". ")[0]  # gloo's advice follows
            raise ValueError(
                "the processes that train together have not found each other, or one of them has ended: "
                f"{words}. Start all of them again with the same settings: training goes on"
            ) from error
        finally:
            self._end()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """All are there."""
        self._end()

    def _begin(self) -> None:
        met = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.nodes == 1 or met or threading.current_thread() is not threading.main_thread():
            return
        watched, self.signals = socket.socketpair()
        self.signals.setblocking(False)
        self.before = signal.set_wakeup_fd(self.signals.fileno())
        threading.Thread(target=_end_at_a_signal, args=(watched, display()), daemon=True).start()
        if not (TorchElasticEnvironment.detect() or SLURMEnvironment.detect()):
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            display().notice(f"waiting for {self.nodes} machines to meet at {where}")

    def _end(self) -> None:
        if self.signals is not None:
            signal.set_wakeup_fd(self.before)
            self.signals.close()
            self.signals = None


def _end_at_a_signal(signals: socket.socket, screen: Display) -> None:
    with signals:
        number = signals.recv(1)
    if number:
        screen.notice("interrupted before the machines have met: nothing was changed")
        os._exit(128 + number[0])


class SameRun(Callback):
    """Ends a run whose processes do not do the same, which would wait for each other forever."""

    def __init__(self, config: TrainingConfig) -> None:
        self.settings = {name: value for name, value in asdict(config).items() if name not in MACHINE_SETTINGS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        here = (self.settings, trainer.global_step, trainer.current_epoch)
        first = trainer.strategy.broadcast(here)
        if not trainer.strategy.reduce_boolean_decision(here == first, all=True):
            differ = [name for name in self.settings if first[0].get(name) != self.settings[name]]
            raise ValueError(
                "the processes that train together do not begin at the same place: "
                + (f"settings differ from those of the first: {', '.join(differ)}" if differ else "")
                + ("" if differ else "the output must be a folder that all machines share")
            )
