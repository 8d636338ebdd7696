"""Which files belong together, from their headers alone: pure facts, a table, and verdicts."""

from .facts import (
    ControlNetFacts,
    DiffusionFacts,
    Facts,
    LoraFacts,
    OtherFacts,
    TextEncoderFacts,
    VaeFacts,
    facts_of,
)
from .judge import SetVerdict, Verdict, judge_pair, judge_set, suitable

__all__ = [
    "ControlNetFacts",
    "DiffusionFacts",
    "Facts",
    "LoraFacts",
    "OtherFacts",
    "SetVerdict",
    "TextEncoderFacts",
    "VaeFacts",
    "Verdict",
    "facts_of",
    "judge_pair",
    "judge_set",
    "suitable",
]
