"""DQ against the golden vectors, which the unmodified official functions produced."""

import numpy as np
import pytest

from minquant.quantizers import dq_budget
from minquant.quantizers.dq import Uniform
from minquant.quantizers.dq_budget import Memory
from minquant.quantizers.dq_parameters import UNIFORM
from minquant.quantizers.dq_power import PowerOfTwo
from tests.helpers import assert_close, vectors

V = vectors("dq")
NAMES = {"d": "d", "xmax": "q_max", "xmin": "q_min", "n": "b"}
KINDS = {"U1": "u1", "U2": "u2", "U3": "u3", "U2snap": "u2snap", "P3": "p3", "Pbmax": "p2", "Pbmin": "p1"}
STATIC = ["fixed_w", "fixed_a", "fixedpow2_w", "fixedpow2_a"]


def build(kind, signed, bits=3, max_bits=8, learn_bits=True, **values):
    """A float64 quantizer with these raw parameters; "lim_" ones are clamp ranges."""
    quantizer = (Uniform if kind in UNIFORM else PowerOfTwo)(bits, kind, signed, signed, learn_bits, max_bits)
    quantizer.astype(np.float64)
    quantizer.state["ready"][...] = True
    for name, value in values.items():
        if name.startswith("lim_"):
            quantizer.limits[NAMES[name[4:]]] = tuple(value)
        else:
            quantizer.array(NAMES[name])[...] = value
    return quantizer


def case(name):
    fields = {key.split(".")[1]: value for key, value in V.items() if key.startswith(name + ".")}
    values = {key: fields[key] for key in fields if key in NAMES or key.startswith("lim_")}
    quantizer = build(KINDS[str(fields["kind"])], bool(fields["signed"]), **values)
    if "with_zero" in fields:
        quantizer.with_zero = bool(fields["with_zero"])
    return quantizer, fields


@pytest.mark.parametrize("name", [str(name) for name in V["case_names"]])
def test_golden_outputs_are_exact_and_gradients_agree(name):
    quantizer, fields = case(name)
    y, cache = quantizer.forward(fields["x"], train=True)
    np.testing.assert_array_equal(y, fields["q"])
    dx, grads = quantizer.backward(fields["g"], cache)
    np.testing.assert_allclose(dx, fields["dx"], rtol=1e-12, atol=1e-14)
    compared = 0
    for short, own in NAMES.items():
        if f"grad_{short}" in fields:
            np.testing.assert_allclose(grads[own], fields[f"grad_{short}"], rtol=1e-9, atol=1e-15, err_msg=own)
            compared += 1
    assert compared == 2


@pytest.mark.parametrize("name", STATIC)
def test_golden_static_quantizers(name):
    fields = {key.split(".")[1]: value for key, value in V.items() if key.startswith(name + ".")}
    power, n = "pow2" in name, int(fields["n"])
    value = {"xmax": 2.0 ** fields["m"]} if power else {"d": fields["delta"]}
    quantizer = build("fixedp" if power else "fixed", bool(fields["signed"]), n, **value)
    y, cache = quantizer.forward(fields["x"])
    np.testing.assert_array_equal(y, fields["q"])
    dx, grads = quantizer.backward(fields["g"], cache)
    np.testing.assert_array_equal(dx, fields["dx"])
    assert grads == {} and quantizer.params == {}


def size_rows(name, kind, side):
    f = {key.split(".")[1]: value for key, value in V.items() if key.startswith(name + ".")}
    low, rows = "xmin" if kind == "p3" else "d", []
    for i, elements in enumerate(f[f"{side}_numel"]):
        values = {short: f[f"{side}_{short}"][i] for short in (low, "xmax")}
        quantizer = build(kind, side == "w", max_bits=16, **values)
        quantizer.limits["d"] = 2.0 ** -8, 1.0
        rows.append(Memory(f"{side}{i}", int(elements), quantizer.bits, True, quantizer))
    return f, low, rows


@pytest.mark.parametrize("kind", ["u3", "p3"])
@pytest.mark.parametrize("constraint", ["sum", "max"])
def test_golden_memory_penalty_and_its_gradient(kind, constraint):
    whole = 0.0
    for side in "wa":
        f, low, rows = size_rows(f"size_{kind}_{constraint}", kind, side)
        how = "sum" if side == "w" else constraint
        np.testing.assert_array_equal([row.bits for row in rows], f[f"{side}_bits"])
        np.testing.assert_allclose(dq_budget.total(rows, how), f[f"{side}_kbytes"], rtol=1e-12)
        value, grads = dq_budget.penalty(rows, f[f"{side}_target"], f[f"lambda_{side}"], how)
        whole += value
        for short in (low, "xmax"):
            own = [grads[f"{side}{i}.{NAMES[short]}"] for i in range(len(rows))]
            np.testing.assert_allclose(own, f[f"{side}_grad_{short}"], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(whole, f["penalty"], rtol=1e-12)


@pytest.mark.parametrize("name,kind,low", [("clip_u3", "u3", "d"), ("clip_p3", "p3", "xmin")])
def test_golden_gradient_clip_and_projection(name, kind, low):
    f = {key.split(".")[1]: value for key, value in V.items() if key.startswith(name + ".")}
    for i in range(6):
        quantizer = build(kind, True, max_bits=16, **{low: f[f"{low}_in"][i], "xmax": f["xmax_in"][i]})
        quantizer.limits["d"] = 2.0 ** -8, 1.0
        clipped = quantizer.clip_gradients({NAMES[low]: f[f"grad_{low}_in"][i], "q_max": f["grad_xmax_in"][i]})
        np.testing.assert_allclose(clipped[NAMES[low]], f[f"grad_{low}_out"][i], rtol=1e-12)
        np.testing.assert_allclose(clipped["q_max"], f["grad_xmax_out"][i], rtol=1e-12)
        quantizer.project()
        np.testing.assert_allclose(quantizer.params[NAMES[low]], f[f"{low}_out"][i], rtol=1e-12)
        np.testing.assert_allclose(quantizer.params["q_max"], f["xmax_out"][i], rtol=1e-12)


def test_golden_initial_step_and_range():
    for i, bits in enumerate(V["init.bits"]):
        quantizer = build("u3", True, int(bits))
        step = quantizer.paper_step(float(np.abs(V["init.w"]).max()))
        assert step == V["init.d"][i]
        assert quantizer.start_values(step)["q_max"] == V["init.xmax"][i]
        largest = build("p3", True, min(int(bits), 4))
        assert 2.0 ** np.round(np.log2(V["init.xmax"][i])) == V["init.p3_xmax"][i]
        if bits <= 4:
            values = largest.start_values(step)
            assert values["q_max"] == V["init.p3_xmax"][i]
        if bits <= 3:  # 4 bits: seven of the paper's eight powers of two are kept
            assert values["q_min"] == V["init.p3_xmin"][i]


def continuous(form, x, b, d, q_max):
    """(q, Jacobian) per element without rounding b and d."""
    values = {"u1": {"n": b, "d": d}, "u2": {"n": b, "xmax": q_max}, "u3": {"d": d, "xmax": q_max}}[form]
    quantizer = build(form, True, **values)
    rows = quantizer.slopes(quantizer.theta()[0], d)
    clipped = np.clip(x, -q_max, q_max)
    q = np.sign(clipped) * np.floor(np.abs(clipped) / d + 0.5) * d
    outside = np.where(np.abs(x) > q_max, np.sign(x), 0)
    order = {"u1": ("b", "d"), "u2": ("b", "q_max"), "u3": ("d", "q_max")}[form]
    return q, np.array([rows[name][0] * (q - clipped) + rows[name][1] * outside for name in order])


@pytest.mark.parametrize("form", ["u1", "u2", "u3"])
def test_golden_gauss_newton_hessian(form):
    q, jacobian = continuous(form, V["gn.x"], float(V["gn.b"]), float(V["gn.d"]), float(V["gn.qmax"]))
    np.testing.assert_array_equal(q, V["gn.q"])
    assert_close(jacobian, V[f"gn.jac_{form}"])
    assert_close(jacobian @ jacobian.T / 400, V[f"gn.hess_{form}"])


def deployed():
    weight = build("u3", True, d=V["deploy.d_w"], xmax=V["deploy.qmax_w"])
    activation = build("u3", False, d=V["deploy.d_a"], xmax=V["deploy.qmax_a"])
    return weight, activation


def test_golden_integer_product_is_the_fake_quantized_one():
    weight, activation = deployed()
    w, x = weight.encode(V["deploy.w"]), activation.encode(V["deploy.x"])
    np.testing.assert_array_equal(w.levels[w.codes], V["deploy.w_int"])
    np.testing.assert_array_equal(x.levels[x.codes], V["deploy.x_int"])
    accumulator = x.levels[x.codes].astype(np.int64) @ w.levels[w.codes].T.astype(np.int64)
    np.testing.assert_array_equal(accumulator, V["deploy.acc"])
    for dtype in (np.float64, np.float32):
        fake_x, _ = activation.forward(V["deploy.x"].astype(dtype))
        fake = fake_x @ weight.forward(V["deploy.w"].astype(dtype))[0].T
        np.testing.assert_array_equal(fake, accumulator * (w.scale * x.scale).astype(dtype))
    np.testing.assert_array_equal(fake, V["deploy.y"])


def test_golden_codes_of_the_next_layer_behind_batch_norm():
    v = {key[7:]: value for key, value in V.items() if key.startswith("deploy.")}
    scale = v["bn_gamma"] / np.sqrt(v["bn_var"] + v["bn_eps"])
    z = v["d_w"] * v["d_a"] * scale * v["acc"] + (v["bn_beta"] - v["bn_mean"] * scale)
    assert_close(z, v["bn_out"], 1e-12)
    after = build("u3", False, d=v["d_out"], xmax=v["qmax_out"])
    stored = after.encode(z)
    np.testing.assert_array_equal(stored.levels[stored.codes], v["x_next_int"])
    np.testing.assert_array_equal(after.staircase().codes(z), stored.codes)


def test_golden_power_of_two_weights_are_shifts_and_adds():
    v = {key[7:]: value for key, value in V.items() if key.startswith("deploy.")}
    quantizer = build("p3", True, xmin=2.0 ** v["p_emin"], xmax=2.0 ** v["p_emax"])
    stored = quantizer.encode(v["w"])
    levels = stored.levels[stored.codes].astype(np.int64)
    np.testing.assert_array_equal(np.sign(levels), v["p_sign"])
    np.testing.assert_array_equal(np.abs(levels), 2 ** v["p_eidx"])
    shifted = (v["p_sign"][None] * (v["x_int"][:, None] << v["p_eidx"][None])).sum(-1)
    np.testing.assert_array_equal(shifted, v["p_acc"])
    np.testing.assert_array_equal(v["x_int"] @ levels.T, v["p_acc"])
    np.testing.assert_array_equal(shifted * float(stored.scale) * float(v["d_a"]), v["p_y"])


@pytest.mark.parametrize("bits", range(2, 9))
def test_golden_packed_bytes_are_twos_complement_fields_least_significant_bit_first(bits):
    codes = V[f"pack.codes_b{bits}"]
    stream = (codes[:, None] >> np.arange(bits) & 1).ravel().astype(np.uint8)
    packed = np.packbits(stream, bitorder="little")
    np.testing.assert_array_equal(packed, V[f"pack.bytes_b{bits}"])
    fields = np.unpackbits(packed, count=stream.size, bitorder="little").reshape(-1, bits).astype(np.int64)
    unpacked = fields @ (1 << np.arange(bits)) - (fields[:, -1] << bits)
    np.testing.assert_array_equal(unpacked, codes)
