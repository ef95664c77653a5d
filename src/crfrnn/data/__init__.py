"""Photos with the class of each pixel: data sets on disk, and the batches that a network trains on.

`SegmentationData` reads a data set with NumPy and Pillow alone; `crfrnn.data.augmentation` and `crfrnn.data.batches`
turn it into tensors and need the train extra.
"""

from crfrnn.data.segmentation import Sample, SegmentationData

__all__ = ["Sample", "SegmentationData"]
