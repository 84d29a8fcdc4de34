"""The device works. If there is none, this test is skipped for all tests of this folder."""

import torch


def test_the_device_computes(device):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 64, 64, generator=generator)
    torch.testing.assert_close((a.to(device) @ b.to(device)).cpu(), a @ b)
