"""Row-sparse optimizers against torch's own."""

import pytest
import torch

from slimrec.optimizers import LazyAdam, RowwiseAdagrad


def table():
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(20, 4))


def backward(parameter, rows, sparse):
    torch.manual_seed(len(rows))
    weights = torch.randn(len(rows), 4)
    parameter.grad = None
    (torch.nn.functional.embedding(rows, parameter, sparse=sparse) * weights).sum().backward()


BATCHES = [torch.tensor([1, 5, 5, 7]), torch.tensor([5, 7, 19]), torch.tensor([1, 1, 1, 1, 2])]


def test_lazy_adam_equals_torchs_sparse_adam_over_batches_with_repeated_rows():
    ours, theirs = table(), table()
    mine, reference = LazyAdam([ours], 0.1), torch.optim.SparseAdam([theirs], 0.1)
    for rows in BATCHES:
        backward(ours, rows, sparse=True)
        backward(theirs, rows, sparse=True)
        mine.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_rowwise_adagrad_equals_adagrad_with_one_accumulator_a_row():
    ours, expected = table(), table().detach().clone()
    optimizer, total = RowwiseAdagrad([ours], 0.1), torch.zeros(20)
    for rows in BATCHES:
        reference = torch.nn.Parameter(ours.detach().clone())
        backward(reference, rows, sparse=False)
        backward(ours, rows, sparse=True)
        optimizer.step()
        total += reference.grad.square().mean(1)
        touched = reference.grad.abs().sum(1) > 0
        expected[touched] -= 0.1 * reference.grad[touched] / (total[touched].sqrt()[:, None] + 1e-10)
    assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", [LazyAdam, RowwiseAdagrad])
def test_rows_outside_the_batch_do_not_move(optimizer):
    ours = table()
    before = ours.detach().clone()
    made = optimizer([ours], 0.1)
    backward(ours, torch.tensor([3, 3, 4]), sparse=True)
    made.step()
    moved = (ours.detach() != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [3, 4]


def test_l2_shrinks_only_the_rows_of_the_batch():
    ours = table()
    before = ours.detach().clone()
    made = RowwiseAdagrad([ours], 0.01, l2=1.0)
    ours.grad = torch.sparse_coo_tensor(torch.tensor([[3]]), torch.zeros(1, 4), ours.shape)
    made.step()
    assert ours.detach()[3].norm() < before[3].norm()
    assert torch.equal(ours.detach()[4], before[4])
