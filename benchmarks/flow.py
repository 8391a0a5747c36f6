"""One flow, four libraries: sample, log-density and the gradient of both.

Affine couplings with networks of two hidden layers of 64, base N(0, 0.3²), tanh at the end: the
published structure. All get the weights of flowinv's flow (in which the first rank's own outputs
are set to 0, since the other libraries' first half stays as it is), so all must give one point
the same density and gradient.
"""

import itertools
from functools import partial

import normflows
import pyro.distributions as dist
import torch
import torch.nn.functional as F
import zuko
from harness import arguments, compare, gradients, same, store
from pyro.distributions.transforms import Permute, TanhTransform
from torch import Tensor, nn

from flowinv.distributions import ConditionalFlow, ConditionalLayer
from flowinv.distributions import coupling_flow as flowinv_couplings

CONTEXT, HIDDEN, SCALE = 32, 64, 0.3


def affine_layers(flow: ConditionalFlow) -> list[ConditionalLayer]:
    """The layers but the last, which leads to the box."""
    return [layer for layer in flow.layers if isinstance(layer, ConditionalLayer)]


def dense_weights(layer: ConditionalLayer) -> tuple[list[int], list[int], dict[str, Tensor]]:
    """A layer as an unmasked coupling: which coefficients condition, which move, the weights."""
    network = layer.network
    moves = network.third.mask[::2].sum(-1) > network.third.mask[::2].sum(-1).min()
    seen = (~moves).nonzero().squeeze(-1)
    moved = moves.nonzero().squeeze(-1)
    rows = (2 * moved[:, None] + torch.arange(2)).flatten()  # scale and shift of each that moves
    third = (network.third.weight * network.third.mask)[rows]
    weights = {
        "x": (network.first.weight * network.first.mask)[:, seen],
        "context": network.context.weight,
        "bias1": network.context.bias,
        "weight2": network.second.weight * network.second.mask,
        "bias2": network.second.bias,
        "weight3": third,
        "bias3": network.third.bias[rows],
    }
    return seen.tolist(), moved.tolist(), {name: w.detach() for name, w in weights.items()}


def load(
    layers: list[nn.Linear], weights: dict[str, Tensor], first: tuple[str, str], rows: list[int]
) -> None:
    """Weights into three linear layers: their input is `first` joined, their outputs are `rows`."""
    values = [
        (torch.cat([weights[name] for name in first], -1), weights["bias1"]),
        (weights["weight2"], weights["bias2"]),
        (weights["weight3"][rows], weights["bias3"][rows]),
    ]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, values):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def shift_first(moved: list[int]) -> list[int]:
    """Rows of (shift, scale) of each coefficient, from rows of (scale, shift)."""
    return [2 * d + e for d in range(len(moved)) for e in (1, 0)]


class Ours:
    """flowinv, as it is used."""

    def __init__(self, D: int, layers: int):
        self.module = flowinv_couplings(D, CONTEXT, scale=SCALE, layers=layers)
        with torch.no_grad():
            for layer in affine_layers(self.module):
                still = dense_weights(layer)[0]
                rows = (2 * torch.tensor(still)[:, None] + torch.arange(2)).flatten()
                layer.network.third.weight[rows] = 0
                layer.network.third.bias[rows] = 0

    def sample(self, context: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        T, log_prob, _ = self.module(context).draw(samples)
        return T, log_prob

    def score(self, context: Tensor, T: Tensor) -> Tensor:
        return self.module(context).log_prob(T)


class Pyro:
    """Stock conditional couplings, permuted in between."""

    def __init__(self, flow: ConditionalFlow, D: int):
        order, transforms, self.module = list(range(D)), [], nn.ModuleList()
        for layer in affine_layers(flow):
            seen, moved, weights = dense_weights(layer)
            transforms.append(Permute(torch.tensor([order.index(d) for d in seen + moved])))
            order = seen + moved
            coupling = dist.transforms.conditional_affine_coupling(
                D, CONTEXT, [HIDDEN, HIDDEN], len(seen)
            )
            coupling.nn.f = nn.LeakyReLU()
            n = len(moved)
            load(
                coupling.nn.layers,
                weights,
                ("context", "x"),
                [2 * d + 1 for d in range(n)] + [2 * d for d in range(n)],
            )
            self.module.append(coupling)
            transforms.append(coupling)
        transforms += [Permute(torch.tensor([order.index(d) for d in range(D)])), TanhTransform()]
        self.base = lambda context: dist.Normal(context.new_zeros(len(context), D), SCALE).to_event(
            1
        )
        self.transforms = transforms

    def distribution(self, context: Tensor):
        steps = [
            t.condition(context) if hasattr(t, "condition") else t.with_cache()
            for t in self.transforms
        ]
        return dist.TransformedDistribution(self.base(context), steps)

    def sample(self, context: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        q = self.distribution(context)
        T = q.rsample((samples,))
        return T, q.log_prob(T)

    def score(self, context: Tensor, T: Tensor) -> Tensor:
        return self.distribution(context).log_prob(T)


class ContextMLP(nn.Module):
    """normflows' couplings know no context: the network keeps it, as the published code has it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        sizes = [inputs + CONTEXT, HIDDEN, HIDDEN, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.context = None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x, self.context], -1)
        for layer in self.layers[:-1]:
            h = F.leaky_relu(layer(h))
        return self.layers[-1](h)


class Tanh(normflows.flows.Flow):
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z.tanh(), TanhTransform().log_abs_det_jacobian(z, None).sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = z.atanh()
        return x, -TanhTransform().log_abs_det_jacobian(x, None).sum(-1)


def coupling_flow(networks, D: int) -> normflows.NormalizingFlow:
    """normflows' couplings with these networks, from N(0, SCALE²) to the box."""
    base = normflows.distributions.DiagGaussian(D, trainable=False)
    base.log_scale.fill_(torch.tensor(SCALE).log())
    blocks = [
        normflows.flows.AffineCouplingBlock(
            network, split_mode="channel" if i % 2 == 0 else "channel_inv"
        )
        for i, network in enumerate(networks)
    ]
    return normflows.NormalizingFlow(base, [*blocks, Tanh()])


class Normflows:
    """Blocks whose two halves take turns; `sample` returns the log-density as well."""

    def __init__(self, flow: ConditionalFlow, D: int):
        self.networks = []
        seen, moved, _ = dense_weights(affine_layers(flow)[0])
        self.order = seen + moved  # the coefficients' order inside
        for layer in affine_layers(flow):
            seen, moved, weights = dense_weights(layer)
            network = ContextMLP(len(seen), 2 * len(moved))
            load(network.layers, weights, ("x", "context"), shift_first(moved))
            self.networks.append(network)
        self.module = coupling_flow(self.networks, D)

    def see(self, context: Tensor) -> None:
        for network in self.networks:
            network.context = context

    def sample(self, context: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        self.see(context.repeat(samples, 1))
        return self.module.sample(len(context) * samples)

    def score(self, context: Tensor, T: Tensor) -> Tensor:
        self.see(context)
        return self.module.log_prob(T[..., self.order])


class Zuko:
    """General couplings with masks; `rsample_and_log_prob` is its one pass for both."""

    def __init__(self, flow: ConditionalFlow, D: int):
        couplings = []
        for layer in affine_layers(flow):
            seen, moved, weights = dense_weights(layer)
            mask = torch.tensor([d in seen for d in range(D)])
            coupling = zuko.flows.GeneralCouplingTransform(
                D, CONTEXT, mask, hidden_features=[HIDDEN, HIDDEN], activation=nn.LeakyReLU
            )
            load(
                [coupling.hyper[j] for j in (0, 2, 4)],
                weights,
                ("x", "context"),
                shift_first(moved),
            )
            couplings.append(coupling)
        # zuko's transforms lead from the data to the base.
        to_line = zuko.flows.UnconditionalTransform(lambda: TanhTransform().inv)
        base = zuko.flows.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(D), torch.full((D,), SCALE), buffer=True
        )
        self.module = zuko.flows.Flow(
            [to_line, *(coupling.inv for coupling in reversed(couplings))], base
        )

    def sample(self, context: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        return self.module(context).rsample_and_log_prob((samples,))

    def score(self, context: Tensor, T: Tensor) -> Tensor:
        return self.module(context).log_prob(T)


def main() -> None:
    args, rows = arguments(__doc__), []
    cases = [
        *itertools.product((3, 6), (4, 12), (128, 512, 5120), (1,)),
        (6, 4, 256, 20),
        (6, 12, 256, 20),
    ]
    for D, layers, B, samples in cases:
        torch.manual_seed(0)
        ours = Ours(D, layers)
        flow = ours.module
        libraries = {
            "flowinv": ours,
            "Pyro": Pyro(flow, D),
            "normflows": Normflows(flow, D),
            "zuko": Zuko(flow, D),
        }
        context = torch.randn(B, CONTEXT, device=args.device, requires_grad=True)
        T = flow(context).sample()
        reference = None
        for name, library in libraries.items():
            library.module.to(args.device)
            density = library.score(context, T)
            results = [density.detach(), *gradients(density.sum(), [context])]
            same(name, results, reference := reference or results, 1e-3)

        def step(library, context=context, samples=samples):
            T, log_prob = library.sample(context, samples)
            gradients(
                (T.square().sum(-1) + log_prob).mean(), [context, *library.module.parameters()]
            )

        times = compare(
            {name: partial(step, library) for name, library in libraries.items()},
            args.repeats,
            args.device,
        )
        case = {"D": D, "layers": layers, "B": B, "samples": samples}
        rows += [case | {"library": name} | time for name, time in times.items()]
        print(
            D,
            layers,
            B,
            samples,
            {name: (time["median"], time["ratio"]) for name, time in times.items()},
        )
    store(args, rows)


if __name__ == "__main__":
    main()
