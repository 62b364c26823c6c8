"""Data-parallel training of the demo's network with MPI: each rank takes its share of every batch.

Run: mpiexec -n 2 python mpi_data_parallel.py [--epochs 5] [--activation elu] [--save result.npz]

All ranks start from the same weights and draw the same order of images. The gradients of the shares are added up by
one Allreduce, for they lie in one flat array, and every rank takes the same step. So N ranks compute what one does, up
to the rounding of that sum. mpiexec binds a rank to cores, and fastact uses as many threads as the rank has cores.
"""

import argparse

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import fastact as fa
from fastact.tools.data import load_digits
from fastact.tools.demo import CLASSES, Adam, Network, fastact_functions

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--activation", default="elu")
parser.add_argument("--save", help="file for the losses, the first gradient and the trained parameters")
options = parser.parse_args()

BATCH_SIZE = 64
comm = MPI.COMM_WORLD
(x, labels), (test_x, test_labels) = load_digits()
network = Network(
    (x.shape[1], 64, 64, CLASSES),
    fastact_functions(options.activation),
    batch_norm=False,  # its mean would be that of the share
    batch_size=BATCH_SIZE,
    seed=0,
)
optimiser = Adam(network.parameters.size)
rng = np.random.default_rng(0)


def loss_and_gradient(batch: NDArray[np.int64]) -> float:
    """The mean loss of a batch that all ranks know; its gradient is then in `network.gradient` of each."""
    share = np.array_split(batch, comm.size)[comm.rank]
    total = np.zeros(1)
    network.gradient[:] = 0
    if len(share):
        total[0] = network.loss_and_gradient(x[share], labels[share]) * len(share) / len(batch)
        network.gradient *= np.float32(len(share) / len(batch))
    comm.Allreduce(MPI.IN_PLACE, network.gradient)
    comm.Allreduce(MPI.IN_PLACE, total)
    return float(total[0])


if comm.rank == 0:
    print(f"{comm.size} ranks, {fa.get_num_threads()} threads in rank 0, {len(x)} images")
losses, first_gradient = [], np.zeros(0)
for epoch in range(options.epochs):
    order = rng.permutation(len(x))
    loss = 0.0
    for start in range(0, len(x), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        loss += loss_and_gradient(batch) * len(batch) / len(x)
        if not first_gradient.size:
            first_gradient = network.gradient.copy()
        optimiser.step(network.parameters, network.gradient)
    losses.append(loss)
    if comm.rank == 0:
        print(f"epoch {epoch + 1}  loss {loss:.5f}", flush=True)

if comm.rank == 0:
    print(f"test accuracy {100 * network.accuracy(test_x, test_labels):.1f} %")
    if options.save:
        np.savez(options.save, losses=losses, gradient=first_gradient, parameters=network.parameters)
