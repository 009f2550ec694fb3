"""Networks written down in a line, for tests of pruning."""

from torch import nn


class Net(nn.Module):
    """Layers by name, and a function that calls them."""

    input_shape = (3, 8, 8)

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(inputs, outputs, size=1, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)
