"""The multiple-choice knapsack: its search, its parts, its relaxation.

Why not a general integer programme: HiGHS (`scipy.optimize.milp`), the oracle of the tests, takes from a third of a
second to over a minute where this takes a tenth of a second, so a sweep or a dry run would wait for it. Seconds of
`allocate`, random weights, one thread (`benchmarks/ranks.py --only highs`, where HiGHS is stopped after 20 seconds):

| network   | decompositions                      | budget                 | here | HiGHS | plans     |
|-----------|-------------------------------------|------------------------|------|-------|-----------|
| ResNet-56 | spatial SVD                         | macs=0.5               | 0.1  | > 20  | equal     |
| ResNet-56 | spatial SVD                         | macs=0.25              | 0.1  | 0.3   | equal     |
| ResNet-56 | spatial SVD                         | macs=0.5, weights=0.5  | 1.1  | > 20  | equal     |
| ResNet-56 | spatial SVD, channel SVD, Tucker-2  | macs=0.5               | 0.2  | > 20  | equal     |
| ResNet-56 | spatial SVD, channel SVD, Tucker-2  | macs=0.5, weights=0.5  | 1.3  | > 20  | equal     |
| VGG-16    | spatial SVD                         | macs=0.5               | 0.1  | > 20  | equal     |
| VGG-16    | spatial SVD                         | macs=0.25              | 0.1  | 1.5   | equal     |
| VGG-16    | spatial SVD                         | macs=0.5, weights=0.5  | 3.2  | > 20  | different |
| VGG-16    | spatial SVD, channel SVD, Tucker-2  | macs=0.5               | 0.2  | > 20  | equal     |
| VGG-16    | spatial SVD, channel SVD, Tucker-2  | macs=0.5, weights=0.5  | 5.8  | > 20  | different |

Where plans differ, that of HiGHS loses more: 0.001 % and 0.06 %. With two budgets both may end without a proof.
"""
