"""What the program says of itself: its version, and what stands with every prediction."""

from __future__ import annotations

from typing import Final

__version__ = "0.1.0"

DISCLAIMER: Final = "Research software, not a medical device."
