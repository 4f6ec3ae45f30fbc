"""Golden numbers of the balancers' tests, by TorchJD 0.18 and LibMTL 1.1.

    python3 deploy/setup/setup.py golden
    PYTHONPATH=.espalier/pygolden python3 tests/golden/balance.py > worker/balance/src/golden/golden.json

Gradients are small whole numbers, so that both sides start from the same ones exactly. Weights are
as the libraries give them: the tests know which of them are means where ours are sums.
"""

import importlib.util
import json
import sys
import types
import warnings

import numpy as np
import torch

# The package itself would import torchvision for its architectures.
package = types.ModuleType("LibMTL")
package.__path__ = importlib.util.find_spec("LibMTL").submodule_search_locations
sys.modules["LibMTL"] = package
from LibMTL.weighting.CAGrad import CAGrad as LibCAGrad
from LibMTL.weighting.GradNorm import GradNorm as LibGradNorm
from LibMTL.weighting.IMTL import IMTL as LibIMTL
from LibMTL.weighting.MGDA import MGDA as LibMGDA
from LibMTL.weighting.UW import UW as LibUW
from torchjd import aggregation as jd
from torchjd import scalarization
from torchjd.linalg import QuadprogProjector

warnings.filterwarnings("ignore")
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
rng = np.random.default_rng(20240917)
# Methods with random orders take the tasks in order.
torch.randperm = lambda n, **_: torch.arange(n)


def whole(k, d):
    return rng.integers(-9, 10, size=(k, d)).astype(float)


def families():
    """Name and gradients of every case."""
    yield "alone", whole(1, 4)
    for k, d in [(2, 5), (4, 9), (8, 12), (64, 90)]:
        yield f"random {k}", whole(k, d)
    for k in [2, 4, 8]:
        # Every task pulls its own coordinate up and all the others' down.
        yield f"conflicting {k}", whole(k, k + 3) + 12 * (2 * np.eye(k, k + 3) - 1) * (np.arange(k + 3) < k)
    base = whole(3, 6)
    yield "collinear 4", np.vstack([base, 2 * base[:1]])
    yield "zero row 4", np.vstack([base, 0 * base[:1]])
    yield "duplicate 4", np.vstack([base, base[1:2]])
    yield "opposite 3", np.vstack([base[:2], -base[:1]])
    yield "dependent 6", np.vstack([base, base[0] + base[1], base[1] - base[2], base[2] + base[0]])
    sizes = np.array([[1], [100], [1], [1000]])
    yield "sizes 4", whole(4, 7) * sizes


def answer(function):
    """Finite weights, or None where the library has no answer."""
    try:
        found = function()
    except Exception as error:  # noqa: BLE001: whatever a solver raises is no answer
        print(f"no answer: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    values = torch.as_tensor(found).double().flatten()
    return values.tolist() if torch.isfinite(values).all() else None


def gram_methods(j):
    g = j @ j.T
    exact = QuadprogProjector(norm_eps=0.0, reg_eps=1e-4)
    methods = {
        # Frank-Wolfe is slow: let it.
        "mgda": lambda: jd.MGDAWeighting(epsilon=1e-12, max_iters=40_000)(g),
        "upgrad": lambda: jd.UPGradWeighting(projector=exact)(g),
        "dual_proj": lambda: jd.DualProjWeighting(projector=exact)(g),
        "cagrad 0.5": lambda: jd.CAGradWeighting(c=0.5)(g),
        "cagrad 2": lambda: jd.CAGradWeighting(c=2.0)(g),
        "imtl_g": lambda: jd.IMTLGWeighting()(g),
        "aligned 0": lambda: jd.AlignedMTLWeighting(scale_mode="min")(g),
        "aligned 1": lambda: jd.AlignedMTLWeighting(scale_mode="median")(g),
        "aligned 2": lambda: jd.AlignedMTLWeighting(scale_mode="rmse")(g),
        "fairgrad 1": lambda: jd.FairGradWeighting(alpha=1.0)(g),
        "fairgrad 2": lambda: jd.FairGradWeighting(alpha=2.0)(g),
        "nash": lambda: jd.NashMTL(n_tasks=len(j), max_norm=0.0, optim_niter=100).weighting(j),
        "pcgrad": lambda: jd.PCGradWeighting()(g),
        "gradvac": lambda: jd.GradVacWeighting(eps=0.0)(g),
        # No weights, but an update: its products with the gradients.
        "config": lambda: j @ jd.ConFIG()(j),
    }
    slow = {"nash", "mgda"} if len(j) > 8 else set()
    return {name: answer(run) for name, run in methods.items() if name not in slow}


def libmtl(kind, grads, losses, epoch=1, **params):
    """One of LibMTL's weightings with its gradients given."""
    class Stub(kind):
        rep_grad, device, task_num = False, torch.device("cpu"), len(grads)

        def _compute_grad_dim(self):
            pass

        def _compute_grad(self, *_args, **_kwargs):
            return grads

        _get_grads = _compute_grad

        def _reset_grad(self, new):
            self.update = new

        def _backward_new_grads(self, weight, grads=None, **_):
            self.update = weight.detach() @ grads.detach()

    stub = Stub()
    stub.epoch, stub.train_loss_buffer = epoch, np.array(losses)[:, None]
    stub.init_param()
    return stub


def of_libmtl(j):
    """LibMTL's CAGrad is written for three tasks."""
    losses = torch.ones(3)
    result = {}
    stub = libmtl(LibCAGrad, j, losses.tolist())
    stub.backward(losses, calpha=0.5, rescale=1)
    result["cagrad rescale 1, products"] = (j @ stub.update).tolist()
    stub = libmtl(LibIMTL, j, losses.tolist())
    result["imtl_g"] = stub.backward(losses).tolist()
    stub = libmtl(LibMGDA, j, losses.tolist())
    result["mgda"] = stub.backward(losses, mgda_gn="none").tolist()
    loss_data = torch.tensor([0.5, 2.0, 1.0])
    for ours, theirs in [("l2", "l2"), ("loss", "loss"), ("loss_l2", "loss+")]:
        stub = libmtl(LibMGDA, j, losses.tolist())
        stub.backward(loss_data, mgda_gn=theirs)
        result[f"mgda {ours}, products"] = (j @ stub.update).tolist()
    return result


def gradnorm(j):
    first = [1.0, 2.0, 3.0]
    stub = libmtl(LibGradNorm, j, first)
    adam = torch.optim.Adam([stub.loss_scale], lr=0.025)
    steps = []
    for losses in [first, [0.5, 1.9, 3.0], [0.4, 1.0, 2.5], [0.5, 0.2, 2.0]]:
        adam.zero_grad()
        weights = stub.backward(torch.tensor(losses), alpha=1.5)
        adam.step()
        steps.append({"losses": losses, "weights": weights.tolist()})
    return steps


def uw():
    stub = libmtl(LibUW, torch.zeros(3, 1), [1.0] * 3)
    adam = torch.optim.Adam([stub.loss_scale], lr=0.01)
    steps = []
    for losses in [[1.0, 2.0, 0.1], [0.5, 1.9, 0.1], [0.4, 1.0, 0.2]]:
        adam.zero_grad()
        values = torch.tensor(losses, requires_grad=True)
        weights = stub.backward(values)
        adam.step()
        steps.append({"losses": losses, "weights": weights.tolist()})
    return steps


def famo():
    scalar = scalarization.FAMO(3)
    scalar.double()
    steps = []
    for losses, after in [([0.5, 2.0, 1.0], [0.4, 1.9, 1.1]), ([0.6, 1.8, 1.0], [0.5, 1.0, 0.9]), ([0.3, 1.5, 0.2], [0.3, 1.4, 0.1]), ([0.2, 1.0, 0.3], [0.2, 1.0, 0.3])]:
        values = torch.tensor(losses, requires_grad=True)
        (weights,) = torch.autograd.grad(scalar(values), values)
        scalar.update(torch.tensor(after))
        steps.append({"losses": losses, "after": after, "weights": weights.tolist()})
    return steps


def imtl_l():
    scalar = scalarization.IMTLL(3)
    adam = torch.optim.Adam(scalar.parameters(), lr=0.01)
    steps = []
    for losses in [[1.0, 2.0, 0.1], [0.5, 1.9, 0.1], [0.4, 1.0, 0.2]]:
        adam.zero_grad()
        values = torch.tensor(losses, requires_grad=True)
        scalar(values).backward()
        steps.append({"losses": losses, "weights": values.grad.tolist()})
        adam.step()
    return steps


def sequences():
    """Methods that remember: one entry a step."""
    gradients = [whole(3, 5) for _ in range(4)]
    vac, smooth = jd.GradVacWeighting(eps=0.0), jd.CRMOGMWeighting(jd.UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0)), alpha=0.9)
    excess = jd.ExcessMTLWeighting(robust_step_size=0.1, n_warmup_steps=1)
    excess_two = jd.ExcessMTLWeighting(robust_step_size=0.1, n_warmup_steps=2)
    sdm, modo = jd.SDMGradWeighting(), jd.MoDoWeighting(gamma=0.001)
    steps = []
    for index, rows in enumerate(gradients):
        j = torch.tensor(rows)
        cross = j @ torch.tensor(gradients[(index + 1) % 4]).T
        steps.append({
            "gradients": rows.astype(int).tolist(),
            "gradvac": vac(j @ j.T).tolist(),
            "upgrad smoothed": smooth(j @ j.T).tolist(),
            "excess_mtl": excess(j).tolist(),
            "excess_mtl 2": excess_two(j).tolist(),
            "sdmgrad": sdm(cross).tolist(),
            "modo": modo(cross).tolist(),
        })
    return steps


def main():
    cases = []
    for name, rows in families():
        assert (rows == rows.round()).all()
        cases.append({"name": name, "gradients": rows.astype(int).tolist(), "weights": gram_methods(torch.tensor(rows))})
    three = torch.tensor([[1.0, 2, 0, -1], [-2, 1, 1, 0], [0.5, -3, 2, 1]])
    trimmed = whole(5, 6)
    golden = {
        "cases": cases,
        "three": {"gradients": three.tolist(), "libmtl": of_libmtl(three), "gradnorm": gradnorm(three)},
        "uw": uw(), "famo": famo(), "imtl_l": imtl_l(), "sequence": sequences(),
        "trimmed_mean": {"gradients": trimmed.tolist(), "update": jd.TrimmedMean(1)(torch.tensor(trimmed)).tolist()},
    }
    text = json.dumps(golden, separators=(",", ":"))
    print(text.replace('{"name"', '\n{"name"').replace(',"', ',\n"'))


if __name__ == "__main__":
    main()
