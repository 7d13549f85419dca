"""Types of the drivers for float64: those of _core, whose Floats are float64 here."""

from fastembed._core import *  # noqa: F403
