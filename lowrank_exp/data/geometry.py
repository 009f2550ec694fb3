"""The settings of what is stored of an image and what is seen of it: which go together, and what they come to.

Shapes are (C, H, W), sizes (H, W).
"""

from dataclasses import dataclass

from torch import Tensor

from lowrank_exp.checks import one_of, whole
from lowrank_exp.data.adapt import Shape, adapt_images
from lowrank_exp.data.square import cut_centre_squares
from lowrank_exp.data.streamed import StreamedImages
from lowrank_exp.data.views import ImageView

TRAIN_VIEWS = ("whole", "random_crop", "random_resized_crop")
TEST_VIEWS = ("whole", "center_crop", "ten_crop")
CHANNEL_ORDERS = ("rgb", "bgr")


@dataclass(frozen=True)
class Geometry:
    """From a decoded image to what the network sees.

    1. With `resize_short` S the shorter side becomes S and the centre square S x S is stored; without it the image is
       stored as it is.
    2. Where both views are `whole`, what is stored is resized to the network's size, once (aspect ratio not kept).
       Where one of them cuts, nothing is resized: views are cut from what is stored, and `whole` needs images stored
       at the network's size.

    Args:
        resize_short: S in pixels, or None.
        train_view: of the training images with augmentation: `whole`, `random_crop`, `random_resized_crop`.
        test_view: of the test images: `whole`, `center_crop`, `ten_crop`. Validation images, and training images
            without augmentation, are seen in their centre crop where a view cuts, never in ten.
        channel_order: `rgb`, or `bgr` for weights of Caffe; mean and std are in the same order.
        crop_padding: of the padded crop, which is for `whole` alone.

    Raises:
        ValueError: an unknown word, or settings that contradict each other.

    >>> geometry = Geometry(resize_short=256, train_view="random_crop", test_view="ten_crop")
    >>> geometry.shape_stored((3, 375, 500)), geometry.shape_kept((3, 256, 256), (3, 224, 224))
    ((3, 256, 256), (3, 256, 256))
    """

    resize_short: int | None = None
    train_view: str = "whole"
    test_view: str = "whole"
    channel_order: str = "rgb"
    crop_padding: int = 0

    def __post_init__(self) -> None:
        side = self.resize_short
        if side is not None:
            allowed = "the shorter side in pixels, at least 1, or null is needed"
            whole("resize_short", side, message=f"data.resize_short={side!r}: {allowed}")
        for name, allowed in (
            ("train_view", TRAIN_VIEWS),
            ("test_view", TEST_VIEWS),
            ("channel_order", CHANNEL_ORDERS),
        ):
            word = getattr(self, name)
            one_of(name, word, allowed, f"data.{name}={word!r} is not known: {', '.join(allowed)}")
        if self.crop_padding and self.train_view != "whole":
            raise ValueError(
                f"data.crop_padding={self.crop_padding} pads whole images, and data.train_view={self.train_view} cuts "
                "crops out of them: set data.crop_padding=0 or data.train_view=whole"
            )

    @property
    def cuts(self) -> bool:
        """Whether a view is less than the whole image."""
        return (self.train_view, self.test_view) != ("whole", "whole")

    def size_decoded(self, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
        """The size that files are resized to when decoded: `image_size`, unless that is the size of views."""
        return None if self.cuts or self.resize_short is not None else image_size

    @property
    def test_views(self) -> int:
        """How many views of a test image the network sees."""
        return 10 if self.test_view == "ten_crop" else 1

    def shape_stored(self, source: Shape) -> Shape:
        """Shape of the stored images, from that of the decoded ones."""
        return source if self.resize_short is None else (source[0], self.resize_short, self.resize_short)

    def shape_kept(self, stored: Shape, network: Shape) -> Shape:
        """Shape in which images wait for their batch: that of the network, or as stored where views are cut.

        Raises:
            ValueError: views that cannot be cut from what is stored, or an order of channels that are not three.
        """
        if self.channel_order == "bgr" and network[0] != 3:
            raise ValueError(
                f"data.channel_order=bgr is an order of 3 channels and the network takes {network[0]}: "
                "set data.channel_order=rgb"
            )
        if not self.cuts:
            return network
        (h, w), (H, W) = stored[1:], network[1:]
        for name, view in (("train_view", self.train_view), ("test_view", self.test_view)):
            here = f"data.{name}={view}"
            if view == "whole" and (h, w) != (H, W):
                other = "test_view" if name == "train_view" else "train_view"
                raise ValueError(
                    f"{here} shows whole images, stored at {h}x{w}, to a network that takes {H}x{W} (height x width), "
                    f"and where data.{other}={getattr(self, other)} cuts, they are not resized: "
                    f"cut here too ({', '.join((TRAIN_VIEWS if name == 'train_view' else TEST_VIEWS)[1:])}), "
                    f"or store them at that size"
                )
            if view in ("random_crop", "center_crop", "ten_crop") and (h < H or w < W):
                raise ValueError(
                    f"{here} cuts {H}x{W} (height x width) out of images stored at {h}x{w}: "
                    f"set data.resize_short={max(H, W)} or more"
                )
            if view == "ten_crop" and (h, w) == (H, W):
                raise ValueError(
                    f"{here} needs images stored larger than the {H}x{W} (height x width) that the network takes, and "
                    f"they are of that size: set data.resize_short to more than {max(H, W)}, or data.test_view=whole"
                )
        return (network[0], *stored[1:])

    def bring(self, images: Tensor | StreamedImages, waiting: Shape) -> Tensor | StreamedImages:
        """Decoded uint8 images `(N, c, h, w)` as they wait for their batch; streamed ones get there when read."""
        if isinstance(images, StreamedImages):
            return images.adapt_to(waiting)
        return adapt_images(cut_centre_squares(images, self.resize_short), waiting)

    def view_in_training(self, waiting: Shape, network: Shape) -> ImageView | None:
        """What is seen in training with augmentation; None: whole images."""
        return None if self.train_view == "whole" else ImageView(self.train_view, waiting[1:], network[1:])

    def view_unaugmented(self, waiting: Shape, network: Shape) -> ImageView | None:
        """What is seen in validation, and in training without augmentation."""
        return ImageView("center_crop", waiting[1:], network[1:]) if self.cuts else None

    def view_in_testing(self, waiting: Shape, network: Shape) -> ImageView | None:
        """What is seen in testing."""
        return None if self.test_view == "whole" else ImageView(self.test_view, waiting[1:], network[1:])

    def decisive(self) -> dict[str, int | str]:
        """The settings that are not as they always were, for the digest of the data."""
        usual = Geometry()
        names = ("resize_short", "train_view", "test_view", "channel_order")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}
