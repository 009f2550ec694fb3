"""What is measured of a network on some images, without training it."""
