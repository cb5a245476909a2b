"""Training: runs and vectors to results."""

from vbx.heads.result import Result, ScoreRow

__all__ = ["Result", "ScoreRow"]
