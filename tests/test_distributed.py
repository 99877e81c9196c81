"""Several processes: DDP over gloo, on the CPU, through timm's task."""

import torch

from benchmarks.two_processes import GLOBAL_BATCH, batches, build, train_in_one, train_in_two


def test_two_processes_learn_what_one_does():
    """In float64, where the order of additions cannot hide a mistake; on noise, for three updates."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3 * GLOBAL_BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (3 * GLOBAL_BATCH,), generator=generator)
    assert len(batches(images)) == 3
    one, two = (train(images, labels, torch.float64) for train in (train_in_one, train_in_two))
    start = build(torch.float64)[1].state_dict()
    assert one.keys() == two.keys() == start.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-8, atol=1e-10, msg=name)
    moved = [name for name, p in start.items() if not torch.equal(p, one[name])]
    assert len(moved) > 0.9 * len(start)
