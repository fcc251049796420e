"""What stands wherever a prediction is shown."""

from typing import Final

DISCLAIMER: Final = "Research software, not a medical device."
