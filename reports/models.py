"""The models: one label, colour, mark and line for each, in every table and figure."""

import zlib
from dataclasses import dataclass
from typing import Any

# seaborn's palette "colorblind"
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")
OWN_COLOURS = (COLOURS[9], COLOURS[6], COLOURS[8])  # of models of the user's own


@dataclass(frozen=True)
class Model:
    """How a model is shown; marks and dashes tell models apart in grey too."""

    label: str
    colour: str
    marker: str
    dashes: Any = "-"

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of a plotted line."""
        return {"color": self.colour, "marker": self.marker}


MODELS: dict[str, Model] = {
    "vma": Model("VMA", COLOURS[0], "o"),
    "soft": Model("soft attention", COLOURS[1], "s", "--"),
    "soft images": Model("soft attention", COLOURS[3], "v", (0, (1, 1))),
    "vae": Model("plain VAE", COLOURS[2], "^", "-."),
    "gmn": Model("GMN", COLOURS[4], "P", (0, (3, 1, 1, 1))),
    # which the paper quotes
    "iwae2": Model("two-layer IWAE", COLOURS[5], "x"),
    "rbm": Model("RBM", COLOURS[7], "x"),
}


def shown_as(model: str, read: object = None) -> Model:
    """The model that reads (soft attention: features or images) so; one of the user's own by its name."""
    found = MODELS.get(f"{model} {read}" if read == "images" else model)
    return found or Model(model, OWN_COLOURS[zlib.crc32(model.encode()) % len(OWN_COLOURS)], "D", (0, (5, 1)))


def label(model: str, read: object = None) -> str:
    """Its name, and what it reads where that can differ."""
    return shown_as(model).label + (f" ({read})" if isinstance(read, str) else "")
