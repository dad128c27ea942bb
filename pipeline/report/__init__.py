"""The report of a run that drops samples or masks tokens and the page of a layer search, both self-contained HTML, and
the dataset card of an output.

All are pure functions of the summary (see summary.py) or of layers.json: no clock, no network, no files but templates.
"""

from tamis.pipeline.report.card import render_card
from tamis.pipeline.report.layers import render_layers
from tamis.pipeline.report.page import render_report
from tamis.pipeline.report.summary import Summary, TokenSummary
from tamis.pipeline.report.tokens import render_token_report

__all__ = ["Summary", "TokenSummary", "render_card", "render_layers", "render_report", "render_token_report"]
