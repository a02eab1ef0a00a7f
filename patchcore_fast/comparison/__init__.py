"""Methods beside each other on the same images: accuracy, seconds to train, ms an image, memory (docs/compare.md)."""
