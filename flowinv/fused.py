"""Affine layers in one piece: the same numbers as layer by layer, forward and backward, in less time.

A layer's matrices are small, so most of its time goes into bookkeeping: autograd's nodes, temporary tensors, many small
products where one would do. Here the backward pass is written out, and what needs no order (what the context
alone contributes before, the weights' gradients after) is one product for all layers. Tensors have the samples last,
so that every part of them is contiguous.

flows.ConditionalFlow(fused=False) goes layer by layer; the tests hold both against each other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.01  # slope of the networks' LeakyReLU
leaky_relu_backward = torch.ops.aten.leaky_relu_backward


class FusedAffine(torch.autograd.Function):
    """For l = 1 … L:  a₁ = φ(W₁ x + k₁),  a₂ = φ(W₂ a₁ + k₂),  (r, t) = W₃ a₂ + k₃,  s = 2 tanh(r / 2),  x ← x eˢ + t,

    where k₁ = C c + b₁ and the sums k₂ = V₂ φ(k₁′) + b₂ and k₃ = V₃ φ(k₂′) + b₃ over the `blind` hidden units, those that
    see no x, depend on the context alone: they are computed once an image, whatever the number of samples.

    x: (D, S, B). context c: (B, C). Weights of all L layers with their masks applied, as MaskedNetworks has them:
    wc C (L, H, C), w1 (L, H, D), w2 (L, H, H), w3 (L, 2 D, H), the rows of r above those of t, and biases b1, b2 (L, H),
    b3 (L, 2 D). φ: LeakyReLU. Returns x (D, S, B) and Σ s over layers and coefficients (S, B).
    """

    @staticmethod
    def forward(ctx, x, context, wc, b1, w1, w2, b2, w3, b3, blind):
        (D, S, B), (L, H, _), N, n = x.shape, wc.shape, x[0].numel(), blind
        # What the context alone contributes.
        k1 = torch.addmm(b1.view(-1, 1), wc.flatten(0, 1), context.mT).view(L, H, B)
        a1_blind = F.leaky_relu(k1[:, :n], LEAK)
        k2 = torch.baddbmm(b2.unsqueeze(-1), w2[..., :n], a1_blind)
        a2_blind = F.leaky_relu(k2[:, :n], LEAK)
        k3 = torch.baddbmm(b3.unsqueeze(-1), w3[..., :n], a2_blind)
        # Layer by layer.
        xs, s, e = (x.new_empty(rows, D, N) for rows in (L + 1, L, L))  # each layer's x, s and eˢ
        a1, a2, rt = (x.new_empty(L, rows, N) for rows in (H - n, H - n, 2 * D))
        xs[0] = x.reshape(D, N)
        k = (
            k.unsqueeze(2).expand(-1, -1, S, -1).reshape(L, k.shape[1], N)
            for k in (k1[:, n:], k2[:, n:], k3)
        )
        for x, y, s_l, e_l, a1_l, a2_l, rt_l, r, t, k1_l, k2_l, k3_l, w1_l, w2_l, w3_l in _layers(
            xs[:-1],
            xs[1:],
            s,
            e,
            a1,
            a2,
            rt,
            rt[:, :D],
            rt[:, D:],
            *k,
            w1[:, n:],
            w2[:, n:, n:],
            w3[..., n:],
        ):
            F.leaky_relu_(torch.addmm(k1_l, w1_l, x, out=a1_l), LEAK)
            F.leaky_relu_(torch.addmm(k2_l, w2_l, a1_l, out=a2_l), LEAK)
            torch.addmm(k3_l, w3_l, a2_l, out=rt_l)
            torch.tanh(r.mul_(0.5), out=s_l).mul_(2)
            torch.addcmul(t, x, torch.exp(s_l, out=e_l), out=y)
        ctx.save_for_backward(xs, s, e, a1, a2, a1_blind, a2_blind, context, wc, w1, w2, w3)
        return xs[-1].view(D, S, B), s.sum((0, 1)).view(S, B)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dx, dlog_det):
        xs, s, e, a1, a2, a1_blind, a2_blind, context, wc, w1, w2, w3 = ctx.saved_tensors
        (L, D, N), (_, S, B), n = s.shape, dx.shape, a1_blind.shape[1]
        # Layer by layer, from the last.
        da1, da2, drt = (s.new_empty(L, rows, N) for rows in (a1.shape[1], a2.shape[1], 2 * D))
        xe, ds_dr = xs[:-1] * e, 1 - s * s / 4
        dx, dlog_det = dx.reshape(D, N), dlog_det.reshape(N)
        transposed = (w.mT for w in (w1[:, n:], w2[:, n:, n:], w3[..., n:]))
        for (
            xe_l,
            ds_dr_l,
            e_l,
            a1_l,
            a2_l,
            da1_l,
            da2_l,
            drt_l,
            dr,
            dt,
            w1_l,
            w2_l,
            w3_l,
        ) in reversed(
            _layers(xe, ds_dr, e, a1, a2, da1, da2, drt, drt[:, :D], drt[:, D:], *transposed)
        ):
            dt.copy_(dx)
            torch.addcmul(dlog_det, dx, xe_l, out=dr).mul_(ds_dr_l)
            leaky_relu_backward.grad_input(
                torch.mm(w3_l, drt_l), a2_l, LEAK, True, grad_input=da2_l
            )
            leaky_relu_backward.grad_input(
                torch.mm(w2_l, da2_l), a1_l, LEAK, True, grad_input=da1_l
            )
            dx = torch.addmm(dx * e_l, w1_l, da1_l)
        # What the context alone contributed: dk is the sum over an image's samples.
        dk1, dk2, dk3 = (
            d.view(L, d.shape[1], S, B).sum(2) if S > 1 else d for d in (da1, da2, drt)
        )
        dk2 = torch.cat([leaky_relu_backward(w3[..., :n].mT @ dk3, a2_blind, LEAK, True), dk2], 1)
        dk1 = torch.cat([leaky_relu_backward(w2[..., :n].mT @ dk2, a1_blind, LEAK, True), dk1], 1)
        dw1, dw2, dw3 = (torch.zeros_like(w) for w in (w1, w2, w3))
        dw1[:, n:] = da1 @ xs[:-1].mT
        dw2[:, n:, n:] = da2 @ a1.mT
        dw2[..., :n] = dk2 @ a1_blind.mT
        dw3[..., n:] = drt @ a2.mT
        dw3[..., :n] = dk3 @ a2_blind.mT
        flat = dk1.flatten(0, 1)
        dcontext, dwc = flat.mT @ wc.flatten(0, 1), (flat @ context).view_as(wc)
        db1, db2, db3 = (d.sum(-1) for d in (dk1, dk2, dk3))
        return dx.view(D, S, B), dcontext, dwc, db1, dw1, dw2, db2, dw3, db3, None


def _layers(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The parts of stacked tensors, layer by layer."""
    return list(zip(*(tensor.unbind() for tensor in tensors)))
