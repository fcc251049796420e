"""Statistics on arrays: metrics, intervals, calibration, prediction sets, verdict."""
