"""oneDNN's products against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from ablate.models.linear import MIN_ROWS, MIN_WEIGHTS, FastConv1D, FastLinear, onednn_linear, use_onednn


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(MIN_ROWS, 256), (3, 97, 256), (2, 200, 512)])
@pytest.mark.parametrize("biased", [False, True])
def test_value_and_gradients_equal_the_plain_layers(shape, biased):
    weight, bias = drawn(80, shape[-1], seed=1), drawn(80, seed=2) if biased else None
    results = []
    assert weight.numel() >= MIN_WEIGHTS
    for multiply in (onednn_linear, functional.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in (drawn(*shape, seed=0), weight, *([bias] if biased else []))]
        out = multiply(leaves[0], leaves[1], leaves[2] if biased else None)
        (out * drawn(*shape[:-1], 80, seed=3)).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-4)  # sums of 291 to 400 products of unit size


def test_a_frozen_weight_gets_no_gradient_and_the_input_still_does():
    x, weight = drawn(300, 256, seed=0).requires_grad_(), drawn(64, 256, seed=1)
    onednn_linear(x, weight, None).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(300, 256), rtol=1e-5, atol=1e-5)
    assert weight.grad is None


def test_gpt2s_transposed_layer_equals_its_own_forward():
    layer, fast = Conv1D(192, 128), use_onednn(Conv1D(192, 128))
    fast.load_state_dict(layer.state_dict())
    x = drawn(4, 128, 128, seed=0)
    torch.testing.assert_close(fast(x), layer(x), rtol=1e-5, atol=1e-6)
    fast(x).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(fast.weight.grad, layer.weight.grad, rtol=1e-5, atol=1e-4)


def test_few_rows_and_autocast_go_pytorchs_way_to_the_same_bits():
    x, weight = drawn(MIN_ROWS - 1, 64, seed=0), drawn(32, 64, seed=1)
    assert torch.equal(onednn_linear(x, weight, None), functional.linear(x, weight))
    x, small = drawn(MIN_ROWS, 64, seed=0), drawn(32, 64, seed=1).requires_grad_()
    assert torch.equal(onednn_linear(x, small, None), functional.linear(x, small)), "few weights, with gradients"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = onednn_linear(x, weight, None)
        assert out.dtype == torch.bfloat16 and torch.equal(out, functional.linear(x, weight))


def test_quickened_layers_keep_their_names_and_every_other_module_its_class():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Conv1D(4, 4), nn.Bilinear(2, 2, 2))
    names = list(model.state_dict())
    assert [type(module) for module in use_onednn(model)] == [FastLinear, nn.ReLU, FastConv1D, nn.Bilinear]
    assert list(model.state_dict()) == names
