"""Attention by GEMM equals the formula for any tile size."""

import pytest
import torch
import torch.nn.functional as F

from vmae_det.modeling import build_model
from vmae_det.modeling.backbones import attention as module
from vmae_det.modeling.backbones.attention import (
    attention,
    attention_received,
    gemm_attention,
    gemm_attention_received,
)
from vmae_det.utils import cpu


@pytest.fixture
def sped_up(monkeypatch):
    """Act as a CPU with fast GEMM, without changing the setting of PyTorch."""
    monkeypatch.setattr(cpu, "_fast_gemm", True)


def heads(number, *tokens, size=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(number, n, size, generator=generator).to(dtype) for n in tokens]
    return [tensor.requires_grad_() for tensor in made]


def by_gemm(keep_weights):
    return lambda *tensors: gemm_attention(*tensors, keep_weights)[0]


def gradients(function, arguments):
    result = function(*arguments)
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result).to(result)
    return result, *torch.autograd.grad((result * weights).sum(), arguments)


@pytest.mark.parametrize("scores", [7, 40, 150, 400, 10**6])  # a row; some; one head; three heads; all
@pytest.mark.parametrize("queries", [12, 5])
@pytest.mark.parametrize("keep_weights", [False, True])
def test_every_tile_size_matches_the_formula(monkeypatch, scores, queries, keep_weights):
    monkeypatch.setattr(module, "_MAX_SCORES", scores)
    arguments = heads(6, queries, 11, 11)
    expected = gradients(F.scaled_dot_product_attention, arguments)
    for found, known in zip(gradients(by_gemm(keep_weights), arguments), expected):
        torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-12)
    assert len(gemm_attention(*arguments, keep_weights)[1]) == (6 if keep_weights else 0)


@pytest.mark.parametrize("scores", [7, 40, 400, 10**6])
def test_attention_received_matches_the_formula(monkeypatch, scores):
    """The weighted sum over queries and heads; by tiles, and by head as it is exported."""
    monkeypatch.setattr(module, "_MAX_SCORES", scores)
    query, key, value = (tensor.unflatten(0, (2, 3)) for tensor in heads(6, 12, 11, 11))
    query_weights = torch.tensor([1.0] * 2 + [2.5] * 7 + [1.0] * 3, dtype=torch.float64)
    weights = (query @ key.mT / 8**0.5).softmax(-1)  # (B, heads, M, N)
    expected = weights @ value, (weights * query_weights[:, None]).sum(dim=(1, 2))
    for function in (attention_received, module._attention_received_by_head):
        found = function(query, key, value, 2, 9, 2.5)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    known = gradients(lambda *tensors: attention(*tensors), [query, key, value])
    results = gradients(lambda *tensors: attention_received(*tensors, 2, 9, 2.5)[0], [query, key, value])
    torch.testing.assert_close(results, known, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_accuracy_is_that_of_the_dtype(dtype, tolerance):
    arguments = heads(4, 160, 160, 160, size=64, dtype=dtype)
    exact = gradients(
        F.scaled_dot_product_attention, [tensor.detach().double().requires_grad_() for tensor in arguments]
    )
    kept, recomputed = (gradients(by_gemm(keep), arguments) for keep in (True, False))
    for found, again, known in zip(kept, recomputed, exact):
        assert found.dtype == dtype
        assert (found - known).abs().max() <= tolerance * known.abs().max()
        assert torch.equal(found, again)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_the_sums_of_attention_are_accurate(dtype, tolerance):
    query, key, value = (
        tensor.unsqueeze(0).detach() for tensor in heads(4, *[160] * 3, size=64, dtype=dtype)
    )
    exact = (query.double() @ key.double().mT / 8).softmax(-1).sum(dim=(1, 2))  # (1, N)
    received = attention_received(query, key, value, 0, 0, 4.0)[1]
    assert received.dtype == torch.float32
    torch.testing.assert_close(received.double(), exact, rtol=tolerance, atol=0)


def test_large_scores_do_not_overflow():
    query, key, value = heads(1, 3, 4, 4, dtype=torch.float32)
    found = gradients(by_gemm(True), [query.detach().mul(1e4).requires_grad_(), key, value])
    assert all(tensor.isfinite().all() for tensor in found)


def test_weights_are_kept_if_they_are_small_and_needed(sped_up, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT_SCORES", 2 * 5 * 7)
    kept = []

    def record(*args, keep_weights):
        kept.append(keep_weights)
        return gemm_attention(*args, keep_weights)

    monkeypatch.setattr(module, "gemm_attention", record)
    small, large = ([tensor.float().unsqueeze(0) for tensor in heads(n, 5, 7, 7)] for n in (2, 3))
    attention(*small)
    attention(*large)
    attention(*(tensor.detach() for tensor in small))
    with torch.no_grad():
        attention(*small)
    assert kept == [True, False, False, False]


def test_torch_treats_it_as_one_operation(sped_up):
    arguments = [tensor.float() for tensor in heads(2, 5, 7, 7)]
    arguments = [tensor.detach().requires_grad_() for tensor in arguments]
    # The attention weights have no gradient, so the gradient of all results is not checked.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for keep_weights in (True, False):
        torch.library.opcheck(gemm_attention, (*arguments, keep_weights), test_utils=checks)
    torch.library.opcheck(gemm_attention_received, (*arguments, 1, 3, 4.0), test_utils=checks)
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(attention, backend=backend, fullgraph=True)
    four = [tensor.unsqueeze(0) for tensor in arguments]
    torch.testing.assert_close(compiled(*four), F.scaled_dot_product_attention(*four))
    assert [name for name in seen if "gemm_attention" in name] == ["vmae_det.gemm_attention.default"]
    assert not any("scaled_dot_product" in name for name in seen)


def test_compiled_gradients_are_the_same(sped_up):
    arguments = [tensor.unsqueeze(0).detach().requires_grad_() for tensor in heads(2, 5, 7, 7)]
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled, arguments), gradients(attention, arguments))


def test_an_exported_model_has_the_standard_operation(sped_up):
    class Model(torch.nn.Module):
        def forward(self, query, key, value):
            return attention(query, key, value)

    arguments = tuple(tensor.detach().float().unsqueeze(0) for tensor in heads(2, 5, 7, 7))
    names = [str(node.target) for node in torch.export.export(Model(), arguments).graph.nodes]
    assert "aten.scaled_dot_product_attention.default" in names


def test_a_step_of_pre_training_is_the_same(tiny_cfg, monkeypatch):
    model = build_model(tiny_cfg("pretrain")).train()
    batch = {
        "video": torch.randint(0, 256, (2, 3, 4, 64, 64), dtype=torch.uint8),
        "seed": torch.arange(2),
    }
    steps, calls = [], []
    monkeypatch.setattr(
        module,
        "gemm_attention",
        lambda *args, **keys: calls.append(cpu.is_fast_gemm_enabled()) or gemm_attention(*args, **keys),
    )
    for fast in (False, True):
        if fast:
            cpu.use_fast_gemm()  # the fast GEMM of this CPU, if it has it
            monkeypatch.setattr(cpu, "_fast_gemm", True)
        model.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        steps.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert calls == [True] * 3  # one per block
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-5, atol=1e-7)
