"""What the program says of itself: its version, and what stands with every prediction."""

from __future__ import annotations

__version__ = "0.1.0"
from typing import Final

DISCLAIMER: Final = "Research software, not a medical device."
