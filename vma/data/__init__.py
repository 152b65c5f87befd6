"""Data sets of binary images, found or downloaded, verified, and split."""

from vma.data.datasets import DATASETS, load
from vma.data.download import cache_dir
from vma.data.folder import Ink, read_drawing
from vma.data.images import DataSet, ImageSet

__all__ = ["DATASETS", "DataSet", "ImageSet", "Ink", "cache_dir", "load", "read_drawing"]
