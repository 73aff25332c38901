"""Every published variant: its configuration, the numbers that were stated for it, and where. One file for each family.

`stated` holds (quantity, value, source). A source names the table of the paper or the file of the repository.
A source that begins with "secondary" was read in a table of other authors.
"""
import torch

from vt_course.models.cost import count_macs, count_parameters
from vt_course.models.zoo import mvit, swin, timesformer, uniformer
from vt_course.models.zoo.variant import Variant

ZOO: dict[str, Variant] = {**swin.VARIANTS, **mvit.VARIANTS, **timesformer.VARIANTS, **uniformer.VARIANTS}


def model_table(names=None) -> list[dict]:
    """One row for each variant: our parameters (M) and GMACs, the stated ones, and the relative difference in %.

    names: of variants; None: all.
    """
    rows = []
    for name in ZOO if names is None else names:
        variant = ZOO[name]
        with torch.device("meta"):
            model = variant.family(**variant.config)
        stated = {quantity: (value, source) for quantity, value, source in variant.stated}
        row = {"name": name, "input": "x".join(map(str, variant.input)), "params": count_parameters(model) / 1e6,
               "gmacs": count_macs(model, (1, *variant.input)) / 1e9, "views": variant.views, "note": variant.note}
        for key, quantity in (("params", "params M"), ("gmacs", "GMACs")):
            value, row[f"{key}_source"] = stated.pop(quantity, (None, None))
            row[f"{key}_stated"] = value and float(value)
            row[f"{key}_diff"] = value and 100 * (row[key] - value) / value
        row["accuracy"] = ", ".join(f"{q} {v}" for q, (v, _) in stated.items())
        row["accuracy_source"] = ", ".join(s for _, s in stated.values())
        rows.append(row)
    return rows
