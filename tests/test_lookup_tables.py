"""Piecewise polynomials: the file is what its generator makes, and the rare side is taken by the lanes that need it."""

import ast

import numpy as np
import pytest
from cases import same
from modules import ROOT, load

import fastact as fa
from fastact.backends.reference import primitives
from fastact.maths import grammar
from fastact.spec.table import OPS


def test_the_file_is_what_the_generator_makes():
    made = load(ROOT / "tools" / "lookup_tables.py").module()
    kept = (grammar.MATHS / "elementary" / "float32_tables.py").read_text(encoding="utf-8")
    assert made == kept, "run tools/lookup_tables.py"


# activations of which a lane beyond the tables takes another path, with their defaults
FORMULAS = grammar.read("float32")
RARE = sorted({n.removesuffix("_default") for n, f in FORMULAS.items() if f.reaches("rarely")} & set(OPS))


def test_which_have_tables():
    assert {"gelu", "mish", "silu"} <= set(RARE)
    assert not any(f.reaches("lookup") for f in grammar.read("float64").values())


def test_tables_are_left_where_they_end():
    """The other side of `rarely` begins at the limit of the table; tanh has none, being 1 before."""
    left = {}
    for formula in FORMULAS.values():
        match formula.node.body[-1]:
            case ast.Return(value=ast.Call(func=ast.Name(id="rarely"), args=[condition, _, ast.Call(func=near), *_])):
                left[near.id] = ast.unparse(condition)
    tables = {table.name: table for table in load(ROOT / "tools" / "lookup_tables.py").TABLES}
    assert tables.keys() - left.keys() == {"tanh_near"} and left.keys() <= tables.keys()
    for name, condition in left.items():
        assert condition in (f"t >= {tables[name].limit}", f"fabs(x) >= {tables[name].limit}"), name


@pytest.mark.parametrize("name", RARE)
@pytest.mark.parametrize("far", [-30.0, 30.0, np.nan])
def test_one_far_element_among_near_ones(name, far, backend):
    """At each place of several vectors; the others are what they are without it."""
    near = np.random.default_rng(0).uniform(-3.5, 3.5, 131).astype(np.float32)
    f, dy = getattr(fa, name), np.ones_like(near)
    alone = np.full(1, far, np.float32)
    for run in (f, lambda x: f.backward(dy[: x.size], x)):
        plain, one = run(near), run(alone)
        for place in range(near.size):
            x, expected = near.copy(), plain.copy()
            x[place], expected[place] = far, one[0]
            assert same(run(x), expected), place


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [8, 16])
def test_lookup_goes_by_the_lowest_bits(dtype, count):
    entries = tuple(float(k * k) for k in range(count))
    magic = np.array(1.5 * 2.0 ** (23 if dtype == "float32" else 52), dtype)
    k = np.arange(-20, 20).astype(dtype)
    assert (
        primitives(dtype)["lookup"](magic + k, *entries) == np.array(entries, dtype)[np.arange(-20, 20) % count]
    ).all()
    if dtype == "float64":
        from fastact.maths.primitives import lookup

        assert [lookup(float(m), *entries) for m in magic + k] == [entries[j % count] for j in range(-20, 20)]
