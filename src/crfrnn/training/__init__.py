"""Training of a network with a CRF-RNN behind it: `train(TrainingConfig(data=..., output=...))`.

The paper's protocol: the network alone first, then network and CRF-RNN together.
"""

from crfrnn.training.config import TrainingConfig, config_from, read_settings, write_config

__all__ = ["TrainingConfig", "config_from", "read_settings", "write_config"]
