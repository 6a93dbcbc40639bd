"""The classes of each task and their terms in the Cell Ontology.

Names follow ICSH 2015; ids were read in the Cell Ontology release of 2026-08-19.
"""

from __future__ import annotations

TASKS: dict[str, tuple[str, ...]] = {
    "cells4": ("RBC", "WBC", "Platelet", "Plasma"),
    "wbc_subtype": ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"),
    "pbc8": (  # the classes of BloodMNIST, in its order
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocyte",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "Platelet",
    ),
    "timelapse": ("tank_treading", "flipping", "unreliable"),  # red cells in flow
    "change": ("steady", "swelling", "lysis", "activation"),  # one cell, over time
}

ONTOLOGY: dict[str, str | None] = {
    "RBC": "CL:0000232",
    "WBC": "CL:0000738",
    "Platelet": "CL:0000233",
    "Plasma": None,  # not a cell: the background between the cells
    "neutrophil": "CL:0000775",
    "eosinophil": "CL:0000771",
    "basophil": "CL:0000767",
    "lymphocyte": "CL:0000542",
    "monocyte": "CL:0000576",
    "erythroblast": "CL:0000765",
    "immature granulocyte": None,  # several stages, no single term
    "tank_treading": "CL:0000232",
    "flipping": "CL:0000232",
    "unreliable": None,  # this clip shows nothing reliable
    "steady": None,  # what happens to a cell, not what it is
    "swelling": None,
    "lysis": None,
    "activation": None,
}

WHITE_CELLS = frozenset(  # the cells that a white-cell differential counts
    (*TASKS["wbc_subtype"], "immature granulocyte")
)
UNIDENTIFIED = "unidentified"
NOT_A_CELL = "Plasma"  # the class for a region without a cell


def label_in_task(label: str, task: str) -> str | None:
    """Return the class of `task` that `label` belongs to; None where there is none.

    A kind of white cell is a WBC of `cells4`.
    """
    if label in TASKS[task]:
        return label
    if task == "cells4" and label in TASKS["wbc_subtype"]:
        return "WBC"
    return None
