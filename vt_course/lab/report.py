"""Printed lines that are the same on every machine.

The tests compare each output of a notebook with the committed one. So a printed line holds only what does not
depend on the processor: shapes, counts, and numbers rounded so coarsely that rounding noise cannot change them.
"""

import torch
from torch import Tensor


def text(value) -> str:
    """Canonical form of a value: (2, 8, 8) as "2 × 8 × 8", 25088 as "25,088", True as "yes"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (tuple, list, torch.Size)) and all(isinstance(v, int) for v in value):
        return " × ".join(f"{v:,}" for v in value)
    return str(value)


def report(**facts) -> None:
    """Print one line for each fact, with aligned names; underscores in a name become spaces."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {text(value)}")


def agree(name: str, got: Tensor, want: Tensor, tol: float = 1e-5) -> None:
    """Assert that two tensors have the same shape and differ by at most `tol` × max(1, |want|) everywhere.

    Prints the bound that was checked, not the difference that was found, because that varies between machines.
    Raises an AssertionError that says where and by how much they differ.
    """
    if got.shape != want.shape:
        raise AssertionError(f"{name}: shape {text(tuple(got.shape))}, wanted {text(tuple(want.shape))}")
    scale = want.abs().clamp(min=1)
    torch.testing.assert_close(got / scale.to(got.dtype), want / scale, rtol=0, atol=tol, msg=lambda m: f"{name}: {m}")
    relative = " · max(1, |x|)" if (scale > 1.01).any() else ""  # above 1 by rounding only counts as 1
    print(f"✓ {name}: {got.numel():,} numbers, |Δ| ≤ {tol:.0e}{relative}")


def differ(name: str, got: Tensor, want: Tensor, at_least: float = 1e-2) -> None:
    """Assert that two tensors of one shape differ by at least `at_least` somewhere: the control for `agree`.

    Its line begins with ≠, because a check mark beside a sentence reads as "this sentence is true".
    """
    if got.shape != want.shape:
        raise AssertionError(f"{name}: shape {text(tuple(got.shape))}, wanted {text(tuple(want.shape))}")
    gap = (got.double() - want.double()).abs().max().item()
    if not gap >= at_least:
        raise AssertionError(f"{name}: the largest difference is {gap:.2e}, expected at least {at_least:.0e}")
    print(f"≠ {name}: max |Δ| ≥ {at_least:.0e}")


def within(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Assert low ≤ value ≤ high and print the interval; the value itself may differ between machines."""
    if not low <= value <= high:
        raise AssertionError(f"{name} is {value:.4g}{unit}, expected {low:g} to {high:g}{unit}")
    print(f"✓ {name}: between {low:g} and {high:g}{unit}")
