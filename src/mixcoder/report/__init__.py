"""ONE PAGE on a table: its health, the model chosen and why, what its clusters are, which rows are odd."""

from mixcoder.report.analysis import Analysis, Cluster, Outlier, analyse
from mixcoder.report.page import Health, render

__all__ = ["Analysis", "Cluster", "Health", "Outlier", "analyse", "render"]
