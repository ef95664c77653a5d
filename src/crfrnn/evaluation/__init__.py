"""How good segmentations are: the network alone and with its CRF, side by side, on labelled photos."""

try:
    import torchmetrics as _torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError(
        "crfrnn.evaluation needs torch and torchmetrics, which are not installed: pip install 'crfrnn[train]'"
    ) from error

from crfrnn.evaluation.contact_sheet import contact_sheet
from crfrnn.evaluation.evaluate import Evaluation, PhotoScores, evaluate
from crfrnn.evaluation.metrics import Scores, confusion_matrix, edge_band, iou_of_classes, scores_of

__all__ = [
    "Evaluation",
    "PhotoScores",
    "Scores",
    "confusion_matrix",
    "contact_sheet",
    "edge_band",
    "evaluate",
    "iou_of_classes",
    "scores_of",
]
