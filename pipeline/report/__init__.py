"""The report of a run: one self-contained HTML page, and the dataset card of the output folder.

Both are pure functions of the summary (see summary.py): no clock, no network, no file but their templates.
"""

from tamis.pipeline.report.card import render_card
from tamis.pipeline.report.page import render_report
from tamis.pipeline.report.summary import Summary

__all__ = ["Summary", "render_card", "render_report"]
